// Whole sequences in, rows of the program's result out: ragged batches of them, without padding and without a cache.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/buffer.h"
#include "program/executor.h"
#include "runtime/interruption.h"

namespace jiffy {

struct EncoderOptions {
  int64_t context = 0;         // tokens of a sequence; at most the program's
  int64_t batch_tokens = 512;  // of a step, unless one sequence has more
  KvType kv_type = KvType::kF32;
};

// Sequences, one behind the other.
struct EncoderInput {
  std::vector<int32_t> token_ids;
  std::vector<int32_t> type_ids;  // [tokens], or empty: all 0
  std::vector<int64_t> lengths;   // of each sequence, 1 to context
};

// Every call may come from any thread, one at a time goes on; each throws kFork in a forked child. A sequence's rows
// don't depend on its companions. Keys and values live as long as a step, in blocks that the next one uses again.
class Encoder {
 public:
  // Throws kParameter, kOutOfMemory.
  Encoder(std::shared_ptr<const Program> program, std::shared_ptr<ThreadPool> pool, const Kernels& kernels,
          const EncoderOptions& options);

  // The rows that run() writes: of a program that pools one for each sequence, else one for each number of `wanted`, or
  // for each token.
  using Rows = std::optional<std::vector<int64_t>>;
  int64_t n_rows(const EncoderInput& input, const Rows& wanted) const;

  // out [n_rows, width()]. wanted: numbers of tokens in input.token_ids, ascending; not of a program that pools. Throws
  // kParameter and kContextOverflow for bad input, before anything is computed, Interruption, kOutOfMemory.
  void run(const EncoderInput& input, const Rows& wanted, float* out, const Interrupted& interrupted,
           const Observer& observer = {});

  // Throws kParameter and kContextOverflow for input that run() would refuse.
  void check(const EncoderInput& input, const Rows& wanted = {}) const;

  const Program& program() const { return *program_; }
  int64_t context() const { return options_.context; }
  int64_t width() const { return program_->result_width(); }
  const char* isa() const { return kernels_.isa; }
  KvType kv_type() const { return kv_.type; }

 private:
  void reserve_kv(int64_t n_blocks);

  const int64_t process_;
  std::shared_ptr<const Program> program_;
  std::shared_ptr<ThreadPool> pool_;
  const Kernels& kernels_;
  const EncoderOptions options_;
  Executor executor_;
  KvLayout kv_;
  Buffer kv_memory_;
  std::vector<int32_t> blocks_;  // 0, 1, 2, ...: the block tables of a step's sequences, one behind the other
  mutable std::mutex mutex_;
};

}  // namespace jiffy
