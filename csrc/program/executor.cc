#include "program/executor.h"

#include <chrono>

namespace jiffy {
namespace {

using Clock = std::chrono::steady_clock;
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
      operands_(program_->values().size()),
      scratch_(Buffer::allocate(static_cast<size_t>(scratch_floats(*program_) * pool.size()) * sizeof(float),
                                "attention scratch")),
      shared_(Buffer::allocate(kSharedFloats * sizeof(float), "attention states")) {}

// Gives every value its rows and its place for this step; grows the arena if the step is the largest so far.
void Executor::bind(const BatchView& batch, float* result) {
  std::vector<int64_t> offsets;
  int64_t total = 0;
  for (const Plan::Slot& slot : plan_.slots) {
    offsets.push_back(total);
    total += slot.bytes(batch.n_tokens, batch.n_outputs);
  }
  if (static_cast<size_t>(total) > arena_.size()) {
    arena_ = Buffer();  // first the old memory back, then the new
    arena_ = Buffer::allocate(static_cast<size_t>(total),
                              "buffers of a step of " + std::to_string(batch.n_tokens) + " tokens");
  }
  for (size_t v = 0; v < operands_.size(); ++v) {
    const Value& type = program_->values()[v];
    const int64_t rows = type.space == Space::kTokens ? batch.n_tokens : batch.n_outputs;
    const int slot = plan_.slot_of[v];
    void* data = slot < 0 ? static_cast<void*>(result) : arena_.as<uint8_t>() + offsets[static_cast<size_t>(slot)];
    operands_[v] = {data, type, rows};
  }
}

bool Executor::run(const BatchView& batch, const KvLayout& kv, float* result, const Interrupted& interrupted,
                   const Observer& observer) {
  bind(batch, result);
  const size_t n = program_->instructions().size();
  last_ = n;
  pool_.run([&](Lane& lane) { run_lane(batch, kv, interrupted, observer, lane); });
  return last_ == n;
}

void Executor::run_lane(const BatchView& batch, const KvLayout& kv, const Interrupted& interrupted,
                        const Observer& observer, Lane& lane) {
  Worker worker{lane, kernels_, scratch_.as<float>() + lane.id() * scratch_floats(*program_), shared_.as<float>()};
  auto next_poll = Clock::now() + kPollInterval;
  const std::vector<Instruction>& instructions = program_->instructions();
  for (size_t i = 0; i < instructions.size(); ++i) {
    const Call call{instructions[i], operands_, program_->parameters(), batch, kv};
    const auto started = observer ? Clock::now() : Clock::time_point();
    op(call.at.op).run(call, worker);
    // Lane 0 decides before the barrier and all lanes look behind it. A lane that looks late may see what lane 0
    // decided at the next instruction already; by its number they still leave at the same one.
    if (lane.id() == 0 && interrupted && Clock::now() >= next_poll) {
      if (interrupted()) last_.store(i, std::memory_order_relaxed);
      next_poll = Clock::now() + kPollInterval;
    }
    lane.barrier();
    if (observer) {
      if (lane.id() == 0) observer({i, call, std::chrono::duration<double>(Clock::now() - started).count()});
      lane.barrier();  // nobody overwrites what it looks at
    }
    if (last_.load(std::memory_order_relaxed) == i) return;
  }
}

}  // namespace jiffy
