// Which tokens of which sequences the next step computes; pure logic, without tensors.
#pragma once

#include <functional>
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

// Copies the keys and values of one block to another; doesn't throw.
using CopyBlock = std::function<void(int32_t from, int32_t to)>;

// Continuous batching (Yu et al. 2022, Orca) with chunked prefill (Agrawal et al. 2023, Sarathi): every step computes
// one token of each decoding sequence, and up to `prefill_chunk` prompt tokens in order of arrival. A sequence begins
// behind the longest prefix of full blocks that the pool knows. Completions and beams of one prompt share its blocks
// until they write (Kwon et al. 2023, vLLM).
//
// A beam that waits for others may lose its blocks like any sequence; its candidates stay. So one beam after the other
// gets its own, even where the pool holds no more than one context. Each search has room in the batch for all its
// beams.
//
// When blocks run out, the sequence that arrived last gives its own back and is computed anew later. The oldest one
// that runs is never made to wait by others; so all come to an end, provided that the pool holds one whole context.
//
// What throws (std::bad_alloc) has changed nothing that matters: the same call can be made again.
class Scheduler {
 public:
  Scheduler(BlockPool& pool, int64_t max_batch, int64_t prefill_chunk, CopyBlock copy)
      : pool_(pool), max_batch_(max_batch), prefill_chunk_(prefill_chunk), copy_(std::move(copy)) {}

  // Its number, and those of its children, are greater than all before.
  void add(std::unique_ptr<Sequence> sequence);

  // The next step's slices. Their blocks are allocated, and written by nobody else; n_computed is for the caller to
  // advance when the step is done.
  std::vector<Slice> schedule();

  // The sequence's full blocks are known by their tokens from now on. For sequences whose logits have come out finite:
  // a NaN in a later position of a chunk can reach the keys and values of earlier ones (attention multiplies it by 0),
  // and would fail other requests that begin with the same tokens. Doesn't throw.
  void register_blocks(Sequence& sequence);

  // Completions whose first token is there become sequences of their own: they share the blocks of their prompt while
  // there is room in the batch, and wait to be computed anew otherwise. Doesn't throw.
  void fork();

  // The live beams of a search, which all wait for each other, become those of the step, and go on. Doesn't throw.
  void go_on(BeamSearch& search, BeamStep& step);

  // Forgets a sequence (of a search: all beams, by the number of the first) and frees its blocks, which the next
  // completion of the same prompt takes over if they have not yet parted; false if the id is unknown. Doesn't throw.
  bool remove(int64_t id);

  // Gives `sequence`, which need not be scheduled here, blocks for `positions`, taking them from running ones if need
  // be. False if even an empty pool would not do.
  bool reserve(Sequence& sequence, int64_t positions);
  void release_blocks(Sequence& sequence);

  bool idle() const { return waiting_.empty() && running_.empty(); }
  int64_t n_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t n_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t n_cached_tokens() const { return n_cached_tokens_; }  // of prompts, taken over instead of computed, so far

 private:
  int64_t n_places() const;
  int64_t places(const Sequence& sequence) const;
  Sequence* next_waiting() const;
  void preempt_last();
  bool preempt_for(const Sequence& sequence);
  bool own_last_block(Sequence& sequence);
  void take_prefix(Sequence& sequence);
  void plan_running(std::vector<Slice>& slices, bool decoding, int64_t& budget);
  void admit(std::vector<Slice>& slices, int64_t budget);
  void drop_preempted(std::vector<Slice>& slices) const;
  void remove_from(Sequences& sequences, Sequences::iterator at);
  void remove_beams(Sequence& first);
  Sequences::node_type take_out(int64_t id);
  static void make_room(Sequence& sequence, size_t n_blocks);

  BlockPool& pool_;
  const int64_t max_batch_, prefill_chunk_;
  const CopyBlock copy_;
  Sequences waiting_, running_;
  int64_t n_cached_tokens_ = 0;
};

}  // namespace jiffy
