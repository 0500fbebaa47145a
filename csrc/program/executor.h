// Runs a program over a batch: one parallel region a step, every lane through the whole instruction list.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include "base/buffer.h"
#include "base/thread_pool.h"
#include "kernels/cpu/kernels.h"
#include "ops/batch.h"
#include "ops/kv_layout.h"
#include "program/program.h"

namespace jiffy {

// Asked about every 50 ms from the calling thread, between instructions; true ends the step early.
using Interrupted = std::function<bool()>;

// An instruction that all lanes have just run, with the time from the barrier before it to the barrier behind it.
struct Observation {
  size_t index;
  const Call& call;
  double seconds;
};
// Called on the calling thread behind every instruction, while all other lanes wait; must not throw.
using Observer = std::function<void(const Observation&)>;

// What is kept of the logits of each output.
struct KeptLogits {
  explicit KeptLogits(int64_t most = 1, bool sums = false) : most(most), sums(sums) {}

  int64_t most;                    // how many of a row's largest (among its candidates)
  bool sums;                       // whether blocks have sums
  int64_t n_blocks = 0;            // of a row
  std::vector<KeptLogit> largest;  // [n_outputs, most], the largest first, equal ones by place; none if one of the
                                   // row's logits is NaN or infinite
  std::vector<LogitBlock> blocks;  // [n_outputs, n_blocks]; (-infinity, 0) behind the last of a row's candidates

  const KeptLogit* row(size_t i) const { return largest.data() + static_cast<int64_t>(i) * most; }
};

// What a step is run for.
struct Wanted {
  float* logits = nullptr;     // [n_outputs, program.result_width()]; a row of candidates has theirs in front
  KeptLogits* kept = nullptr;  // instead of logits, if Executor::head()

  Wanted(float* logits) : logits(logits) {}
  static Wanted only(KeptLogits& kept) {
    Wanted wanted(nullptr);
    wanted.kept = &kept;
    return wanted;
  }
};

class Executor {
 public:
  // `program` must be validated; the pool and the kernels are borrowed.
  Executor(std::shared_ptr<const Program> program, ThreadPool& pool, const Kernels& kernels);

  // The shape that the KV cache must have; all zero for a program without attention.
  KvLayout kv_shape() const { return program_->kv_shape(); }

  // The matmul that makes the result, which nothing reads, of x and a weight alone: a batch may name candidates to it,
  // and it needs not store logits. nullptr if there is none.
  const Instruction* head() const { return head_; }

  // False if `interrupted` ended the step: the KV of its positions is then
  // undefined, everything else as before. Throws kOutOfMemory (before anything is computed) and kFork.
  bool run(const BatchView& batch, const KvLayout& kv, Wanted wanted, const Interrupted& interrupted,
           const Observer& observer = {});

 private:
  // What all lanes work on in a step.
  struct Step {
    const BatchView& batch;
    const KvLayout& kv;
    Wanted wanted;
    bool replicated;  // every lane has an arena of its own for what replicable instructions make
    const Interrupted& interrupted;
    const Observer& observer;
  };

  void lay_out(const Step& step);
  void lay_out_keeper(int64_t n_outputs, KeptLogits& kept);
  void put_together(int64_t n_outputs, KeptLogits& kept);
  void bind(const Step& step, int lane);
  void run_lane(const Step& step, Lane& lane);

  std::shared_ptr<const Program> program_;
  ThreadPool& pool_;
  const Kernels& kernels_;
  const Plan plan_;
  const Instruction* const head_;
  std::vector<bool> own_;                       // [values]: made by an instruction that is replicated in small steps
  std::vector<std::vector<Operand>> operands_;  // [lanes][values], of the current step
  LogitKeeper keeper_{};                        // where not all logits are wanted
  std::vector<KeptLogit> largest_;              // [lanes, n_outputs, most], the keeper's
  Buffer tiles_;                                // the keeper's
  std::vector<int64_t> offsets_;                // [slots], in an arena
  int64_t arena_bytes_ = 0;
  Buffer arena_;                  // the slots of plan_; in a replicated step, once more for each lane
  const int64_t scratch_floats_;  // of a lane
  Buffer scratch_;                // one piece a lane
  Buffer shared_;                 // [kSharedFloats]
  std::atomic<size_t> last_;      // the instruction behind which lanes leave
};

}  // namespace jiffy
