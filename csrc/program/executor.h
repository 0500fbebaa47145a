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

class Executor {
 public:
  // `program` must be validated; the pool and the kernels are borrowed.
  Executor(std::shared_ptr<const Program> program, ThreadPool& pool, const Kernels& kernels);

  // The shape that the KV cache must have; all zero for a program without attention.
  KvLayout kv_shape() const { return program_->kv_shape(); }

  // result: [n_outputs, program.result_width()]. False if `interrupted` ended the step: the KV of its positions is then
  // undefined, everything else as before. Throws kOutOfMemory (before anything is computed) and kFork.
  bool run(const BatchView& batch, const KvLayout& kv, float* result, const Interrupted& interrupted,
           const Observer& observer = {});

 private:
  void bind(const BatchView& batch, float* result);
  void run_lane(const BatchView& batch, const KvLayout& kv, const Interrupted& interrupted, const Observer& observer,
                Lane& lane);

  std::shared_ptr<const Program> program_;
  ThreadPool& pool_;
  const Kernels& kernels_;
  const Plan plan_;
  std::vector<Operand> operands_;  // [values], of the current step
  Buffer arena_;                   // the slots of plan_
  Buffer scratch_;                 // one piece a lane
  Buffer shared_;                  // [kSharedFloats]
  std::atomic<size_t> last_;       // the instruction behind which every lane leaves
};

}  // namespace jiffy
