#include "program/executor.h"

#include <chrono>

namespace jiffy {
namespace {

using Clock = std::chrono::steady_clock;
// Steps of at most so many tokens are replicated: RMSNorm and quantisation of a row of 2048 take about 0.2 us, a
// barrier and the wait for the slower lane more.
constexpr int64_t kReplicatedTokens = 1;

constexpr auto kPollInterval = std::chrono::milliseconds(50);

int64_t scratch_floats(const Program& program) {
  const int64_t floats = attention_scratch_floats(program.kv_shape().head_dim);
  return (floats + 15) / 16 * 16;
}

}  // namespace

Executor::Executor(std::shared_ptr<const Program> program, ThreadPool& pool, const Kernels& kernels)
    : program_(std::move(program)),
      pool_(pool),
      kernels_(kernels),
      plan_(plan_buffers(*program_)),
      replicable_(program_->values().size(), false),
      operands_(static_cast<size_t>(pool.size()), std::vector<Operand>(program_->values().size())),
      offsets_(plan_.slots.size()),
      scratch_(Buffer::allocate(static_cast<size_t>(scratch_floats(*program_) * pool.size()) * sizeof(float),
                                "attention scratch")) {
  for (const Instruction& at : program_->instructions()) {
    for (const int v : at.outputs) {
      replicable_[static_cast<size_t>(v)] = op(at.op).replicable && v != program_->result();
    }
  }
}

// Places the slots of this step in an arena, and grows the arenas' memory if the step is the largest so far.
void Executor::lay_out(const BatchView& batch, bool replicated) {
  arena_bytes_ = 0;
  for (size_t s = 0; s < plan_.slots.size(); ++s) {
    offsets_[s] = arena_bytes_;
    arena_bytes_ += plan_.slots[s].bytes(batch.n_tokens, batch.n_outputs);
  }
  const auto bytes = static_cast<size_t>(arena_bytes_ * (replicated ? pool_.size() + 1 : 1));
  if (bytes <= arena_.size()) return;
  arena_ = Buffer();  // first the old memory back, then the new
  arena_ = Buffer::allocate(bytes, "buffers of a step of " + std::to_string(batch.n_tokens) + " tokens");
}

// Gives every value its rows and its place for this step, as `lane` sees it.
void Executor::bind(const Step& step, int lane) {
  uint8_t* const shared = arena_.as<uint8_t>();
  uint8_t* const own = shared + (step.replicated ? (lane + 1) * arena_bytes_ : 0);
  std::vector<Operand>& operands = operands_[static_cast<size_t>(lane)];
  for (size_t v = 0; v < operands.size(); ++v) {
    const Value& type = program_->values()[v];
    const int64_t rows = type.space == Space::kTokens ? step.batch.n_tokens : step.batch.n_outputs;
    const int slot = plan_.slot_of[v];
    void* const data = slot < 0 ? static_cast<void*>(step.result)
                                : (replicable_[v] ? own : shared) + offsets_[static_cast<size_t>(slot)];
    operands[v] = {data, type, rows};
  }
}

bool Executor::run(const BatchView& batch, const KvLayout& kv, float* result, const Interrupted& interrupted,
                   const Observer& observer) {
  const bool replicated = pool_.size() > 1 && batch.n_tokens <= kReplicatedTokens;
  lay_out(batch, replicated);
  const size_t n = program_->instructions().size();
  last_ = n;
  const Step step{batch, kv, result, replicated, interrupted, observer};
  pool_.run([&](Lane& lane) { run_lane(step, lane); });
  return last_ == n;
}

void Executor::run_lane(const Step& step, Lane& lane) {
  bind(step, lane.id());
  Worker worker{lane, kernels_, scratch_.as<float>() + lane.id() * scratch_floats(*program_)};
  auto next_poll = Clock::now() + kPollInterval;
  const std::vector<Instruction>& instructions = program_->instructions();
  for (size_t i = 0; i < instructions.size(); ++i) {
    const Call call{instructions[i], operands_[static_cast<size_t>(lane.id())], program_->parameters(), step.batch,
                    step.kv};
    const auto started = step.observer ? Clock::now() : Clock::time_point();
    worker.alone = step.replicated && op(call.at.op).replicable && call.at.outputs[0] != program_->result();
    op(call.at.op).run(call, worker);
    if (worker.alone && !step.observer) continue;  // nobody waits for a result that every lane has
    // Lane 0 decides before the barrier and all lanes look behind it. A lane that looks late may see what lane 0
    // decided at the next instruction already; by its number they still leave at the same one.
    if (lane.id() == 0 && step.interrupted && Clock::now() >= next_poll) {
      if (step.interrupted()) last_.store(i, std::memory_order_relaxed);
      next_poll = Clock::now() + kPollInterval;
    }
    lane.barrier();
    if (step.observer) {
      if (lane.id() == 0) step.observer({i, call, std::chrono::duration<double>(Clock::now() - started).count()});
      lane.barrier();  // nobody overwrites what it looks at
    }
    if (last_.load(std::memory_order_relaxed) == i) return;
  }
}

}  // namespace jiffy
