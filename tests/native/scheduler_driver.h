// Plays the engine over a scheduler without a model, and checks every step.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "runtime/block_pool.h"
#include "runtime/scheduler.h"

namespace jiffy::check {

inline int64_t blocks_for(int64_t positions) { return (positions + kBlockSize - 1) / kBlockSize; }

// Instead of keys and values, the position of a block holds a digest of all tokens up to there: so a block that is
// shared, copied, given out or written wrongly shows. The model's next token is a function of the tokens and of the
// request's number modulo 2, so that completions of one prompt partly agree.
class Driver {
 public:
  Driver(int64_t n_blocks, int64_t max_batch, int64_t prefill_chunk, PrefixHash hash = prefix_hash);

  // A request for `n` completions. With a length instead of tokens: of tokens that no other prompt has.
  Sequence& add(std::vector<int32_t> prompt, int64_t max_tokens, int64_t n = 1);
  Sequence& add(int64_t n_prompt, int64_t max_tokens);
  void cancel(int64_t id);

  // `done` false: the step was interrupted.
  std::vector<Slice> step(bool done = true);

  bool idle() const;
  const std::map<int64_t, Sequence*>& live() const { return live_; }
  const std::vector<int64_t>& finished() const { return finished_; }
  const std::map<int64_t, std::vector<int32_t>>& answers() const { return answers_; }
  BlockPool& pool() { return pool_; }
  Scheduler& scheduler() { return scheduler_; }
  int64_t n_preempted() const { return n_preempted_; }
  int64_t n_copied() const { return n_copied_; }

 private:
  struct Before {
    std::map<int64_t, int64_t> computed;
    std::vector<int64_t> decoding;
    int64_t oldest = -1;  // that runs, or else that waits
  };
  Before look() const;
  std::set<int64_t> unborn() const;
  void check_slices(const std::vector<Slice>& slices, const Before& before);
  void check_blocks() const;
  void check_contents(const Sequence& sequence);
  void write(const Slice& slice, bool done);
  void say(Sequence& sequence);
  void commit(const std::vector<Slice>& slices);

  uint64_t& content(const Sequence& sequence, int64_t position);
  const std::vector<uint64_t>& digests(const Sequence& sequence);

  BlockPool pool_;
  const int64_t max_batch_, prefill_chunk_;
  Scheduler scheduler_;
  std::vector<uint64_t> contents_;     // [n_blocks, kBlockSize]
  std::map<int64_t, Sequence*> live_;  // by id, which is the order of arrival
  std::map<int64_t, std::vector<uint64_t>> digests_;
  std::map<int64_t, std::vector<int32_t>> answers_;
  std::vector<int64_t> finished_;
  int64_t next_id_ = 0, n_preempted_ = 0, n_copied_ = 0;
};

}  // namespace jiffy::check
