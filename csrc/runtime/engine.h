// Requests in, tokens out: each step() runs one ragged batch that mixes prefill chunks and decode rows.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "program/executor.h"
#include "runtime/batch.h"
#include "runtime/candidates.h"
#include "runtime/choosing.h"
#include "runtime/interruption.h"
#include "runtime/kv_cache.h"
#include "runtime/reader.h"
#include "runtime/scheduler.h"

namespace jiffy {

struct EngineOptions {
  int64_t context = 0;          // positions of a sequence; at most the program's
  int64_t max_batch = 64;       // sequences that run at once
  int64_t prefill_chunk = 512;  // prompt tokens in a step
  KvType kv_type = KvType::kF32;
  bool prefix_cache = true;  // a prompt that begins as one before takes over its keys and values
};

// Every call may come from any thread, one at a time goes on; each throws kFork in a forked child. A step that throws
// has changed no token of any sequence: the next one does its work again.
class Engine {
 public:
  // encoder: what reads the source texts of a program with cross-attention, nullptr for one without. shortlist: of what
  // a text's tokens are chosen from; nullptr: from all. Throws kParameter, kOutOfMemory, and kFormat for a program with
  // more logits than embeddings, or that doesn't fit the encoder or the shortlist.
  Engine(std::shared_ptr<const Program> program, std::shared_ptr<ThreadPool> pool, const Kernels& kernels,
         const EngineOptions& options, std::shared_ptr<Encoder> encoder = nullptr,
         std::shared_ptr<const Shortlist> shortlist = nullptr);

  // `n` completions of one prompt, each a request of its own; number i has completion_seed(params.seed, i). Returns the
  // number of the first, which the others follow. Throws kParameter for a bad prompt or parameter, kContextOverflow for
  // a prompt that is too long.
  // One request for params.beams, whose last event has the hypotheses. source: the text that an encoder reads first;
  // none without one.
  int64_t add(std::vector<int32_t> prompt, SamplingParams params, int64_t n = 1, std::vector<int32_t> source = {});

  // One step; a token for each sequence that has got one. Empty when there is nothing to do. Throws Interruption,
  // kOutOfMemory.
  std::vector<TokenEvent> step(const Interrupted& interrupted, const Observer& observer = {});

  // Ends a request, or does nothing if it has ended.
  void cancel(int64_t request);

  // out [n_tokens, vocab_size]: the logits behind every token, whatever a shortlist says. Throws as add() and step()
  // do.
  void logits(std::vector<int32_t> tokens, float* out, const Interrupted& interrupted, const Observer& observer = {},
              std::vector<int32_t> source = {});

  // out [n_tokens - 1]: the log probability of each token after the first, given those before; -infinity for one that
  // has no logit, NaN where logits are no finite numbers. Throws as add() and step() do.
  void score(std::vector<int32_t> tokens, float* out, const Interrupted& interrupted);

  bool idle() const;
  const Program& program() const { return *program_; }
  int64_t vocab_size() const { return program_->result_width(); }
  const char* isa() const { return kernels_.isa; }
  KvType kv_type() const { return options_.kv_type; }
  int64_t kv_bytes() const { return cache_.n_bytes(); }
  int64_t n_blocks() const;
  int64_t n_free_blocks() const;
  int64_t n_source_blocks() const { return reader_ ? reader_->pool().n_blocks() : 0; }
  int64_t n_free_source_blocks() const;
  int64_t n_cached_tokens() const;  // of prompts, taken from the prefix cache so far

 private:
  std::unique_lock<std::mutex> enter() const;
  void check_tokens(const std::vector<int32_t>& tokens) const;
  void check_beams(const SamplingParams& params, int64_t n) const;
  void check_constraints(const Constraints& constraints) const;
  std::shared_ptr<SourceText> source_text(std::vector<int32_t> tokens);
  std::unique_ptr<Sequence> make_sequence(const std::vector<int32_t>& prompt, const SamplingParams& params,
                                          std::shared_ptr<SourceText> source);
  std::vector<Slice> schedule();
  void reserve_logits(int64_t n_outputs);
  void make_candidates(const std::vector<Slice>& slices);
  void read_sources(const std::vector<Slice>& slices, const Interrupted& interrupted, const Observer& observer);
  std::vector<Outcome> compute(const Batch& batch, const std::vector<const Sequence*>& rows,
                               const Interrupted& interrupted, const Observer& observer);
  template <class Place, class Done>
  void compute_alone(std::vector<int32_t> tokens, std::vector<int32_t> source, int64_t chunk,
                     const Interrupted& interrupted, const Observer& observer, Place&& place, Done&& done);
  void commit(const std::vector<Slice>& slices, std::vector<Outcome>& outcomes, std::vector<Turn>& turns);

  const int64_t process_;
  std::shared_ptr<const Program> program_;
  std::shared_ptr<ThreadPool> pool_;
  const Kernels& kernels_;
  const EngineOptions options_;
  Executor executor_;
  KVCache cache_;
  std::optional<Reader> reader_;
  std::optional<CandidateMaker> candidate_maker_;
  std::vector<BlockCopy> copies_;  // that the scheduler has asked for
  Scheduler scheduler_;
  Choosing choosing_;
  LogSoftmax log_softmax_;
  Buffer logits_;    // [outputs of the largest step that needed them so far, vocab_size]
  KeptLogits kept_;  // of a step that needs no logits
  int64_t next_id_ = 0;
  mutable std::mutex mutex_;
};

}  // namespace jiffy
