// Which tokens of which sequences the next step computes; pure logic, without tensors.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "runtime/block_pool.h"
#include "runtime/sequence.h"

namespace jiffy {

// The tokens [sequence->n_computed, + count) of a sequence. `output`: these are its last, so its next token is sampled.
struct Slice {
  Sequence* sequence;
  int64_t count;
  bool output;
};

// Continuous batching (Yu et al. 2022, Orca) with chunked prefill (Agrawal et al. 2023, Sarathi): every step computes
// one token of each decoding sequence, and up to `prefill_chunk` prompt tokens in order of arrival.
//
// When blocks run out, the sequence that arrived last gives its own back and is computed anew later. The oldest one is
// never made to wait by others; so all come to an end, provided that the pool holds at least one whole context.
class Scheduler {
 public:
  Scheduler(BlockPool& pool, int64_t max_batch, int64_t prefill_chunk)
      : pool_(pool), max_batch_(max_batch), prefill_chunk_(prefill_chunk) {
    running_.reserve(static_cast<size_t>(max_batch));
  }

  void add(std::unique_ptr<Sequence> sequence);

  // The next step's slices. Their blocks are allocated; n_computed is for the caller to advance when the step is done.
  std::vector<Slice> schedule();

  // Forgets a sequence and frees its blocks; false if the id is unknown.
  bool remove(int64_t id);

  // Gives `sequence`, which need not be scheduled here, blocks for `positions`, taking them from running ones if need
  // be. False if even an empty pool would not do.
  bool reserve(Sequence& sequence, int64_t positions);
  void release_blocks(Sequence& sequence);

  bool idle() const { return waiting_.empty() && running_.empty(); }
  int64_t n_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t n_running() const { return static_cast<int64_t>(running_.size()); }

 private:
  void preempt_last();
  void plan_running(std::vector<Slice>& slices, bool decoding, int64_t& budget);
  void admit(std::vector<Slice>& slices, int64_t budget);
  void drop_preempted(std::vector<Slice>& slices) const;

  BlockPool& pool_;
  const int64_t max_batch_, prefill_chunk_;
  std::deque<std::unique_ptr<Sequence>> waiting_;   // in order of arrival
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of arrival
};

}  // namespace jiffy
