#include "program/executor.h"

#include <algorithm>
#include <chrono>

namespace jiffy {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPollInterval = std::chrono::milliseconds(50);

int64_t scratch_floats(const Program& program) {
  const int64_t floats = attention_scratch_floats(program.kv_shape().head_dim);
  return (floats + 15) / 16 * 16;
}

bool ends_in_matmul(const Program& program) {
  const auto has_result = [&](const std::vector<int>& values) {
    return std::find(values.begin(), values.end(), program.result()) != values.end();
  };
  const std::vector<Instruction>& all = program.instructions();
  return std::all_of(all.begin(), all.end(), [&](const Instruction& at) {
    return !has_result(at.inputs) && (at.op == OpKind::kMatmul || !has_result(at.outputs));
  });
}

// Lanes take slabs in ascending order, but each any of them: equal ones go by number.
int32_t likeliest(const std::vector<RowMax>& row_max, size_t row, size_t rows) {
  RowMax best;
  for (size_t i = row; i < row_max.size(); i += rows) {
    const RowMax& lane = row_max[i];
    if (lane.magnitude >= kInfinityBits) return -1;
    const bool first = lane.largest == best.largest && lane.index < best.index;
    if (lane.index >= 0 && (lane.largest > best.largest || first)) best = lane;
  }
  return best.index;
}

}  // namespace

Executor::Executor(std::shared_ptr<const Program> program, ThreadPool& pool, const Kernels& kernels)
    : program_(std::move(program)),
      pool_(pool),
      kernels_(kernels),
      plan_(plan_buffers(*program_)),
      finds_likeliest_(ends_in_matmul(*program_)),
      operands_(program_->values().size()),
      scratch_(Buffer::allocate(static_cast<size_t>(scratch_floats(*program_) * pool.size()) * sizeof(float),
                                "attention scratch")) {}

// Gives every value its rows and its place for this step; grows the arena if the step is the largest so far.
void Executor::bind(const BatchView& batch, Wanted wanted) {
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
    void* data =
        slot < 0 ? static_cast<void*>(wanted.logits) : arena_.as<uint8_t>() + offsets[static_cast<size_t>(slot)];
    operands_[v] = {data, type, rows};
  }
  if (wanted.likeliest == nullptr) return;
  row_max_.assign(static_cast<size_t>(batch.n_outputs * pool_.size()), RowMax());
  operands_[static_cast<size_t>(program_->result())].row_max = row_max_.data();
}

bool Executor::run(const BatchView& batch, const KvLayout& kv, Wanted wanted, const Interrupted& interrupted,
                   const Observer& observer) {
  bind(batch, wanted);
  const size_t n = program_->instructions().size();
  last_ = n;
  pool_.run([&](Lane& lane) { run_lane(batch, kv, interrupted, observer, lane); });
  if (last_ != n) return false;
  if (wanted.likeliest != nullptr) {
    const size_t rows = static_cast<size_t>(batch.n_outputs);
    for (size_t row = 0; row < rows; ++row) wanted.likeliest[row] = likeliest(row_max_, row, rows);
  }
  return true;
}

void Executor::run_lane(const BatchView& batch, const KvLayout& kv, const Interrupted& interrupted,
                        const Observer& observer, Lane& lane) {
  Worker worker{lane, kernels_, scratch_.as<float>() + lane.id() * scratch_floats(*program_)};
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
