#include "program/executor.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace jiffy {
namespace {

using Clock = std::chrono::steady_clock;
// Steps of at most so many tokens are replicated: RMSNorm and quantisation of a row of 2048 take about 0.2 us, a
// barrier and the wait for the slower lane more.
constexpr int64_t kReplicatedTokens = 1;

constexpr auto kPollInterval = std::chrono::milliseconds(50);

int64_t largest_head(const Program& program) {
  return std::max(program.kv_shape().head_dim, program.source_shape().head_dim);
}

// The matmul of one weight that a program ends in; nullptr if it ends in something else.
const Instruction* last_matmul(const Program& program) {
  const auto has_result = [&](const std::vector<int>& values) {
    return std::find(values.begin(), values.end(), program.result()) != values.end();
  };
  const Instruction* last = nullptr;
  for (const Instruction& at : program.instructions()) {
    if (has_result(at.inputs)) return nullptr;
    if (has_result(at.outputs)) last = &at;
  }
  const bool alone = last->op == OpKind::kMatmul && last->outputs.size() == 1 && last->inputs.size() == 1;
  return alone ? last : nullptr;
}

}  // namespace

Executor::Executor(std::shared_ptr<const Program> program, ThreadPool& pool, const Kernels& kernels)
    : program_(std::move(program)),
      pool_(pool),
      kernels_(kernels),
      plan_(plan_buffers(*program_)),
      head_(last_matmul(*program_)),
      own_(program_->values().size(), false),
      operands_(static_cast<size_t>(pool.size()), std::vector<Operand>(program_->values().size())),
      offsets_(plan_.slots.size()),
      scratch_floats_(scratch_floats(program_->parameters(), largest_head(*program_), kernels)),
      scratch_(Buffer::allocate(static_cast<size_t>(scratch_floats_ * pool.size()) * sizeof(float), "scratch memory")),
      shared_(Buffer::allocate(kSharedFloats * sizeof(float), "attention states")) {
  for (size_t i = 0; i < plan_.replicated.size(); ++i) {
    for (const int v : program_->instructions()[i].outputs) own_[static_cast<size_t>(v)] = plan_.replicated[i];
  }
}

// Places the slots of this step in an arena, and grows the arenas' memory if the step is the largest so far.
void Executor::lay_out(const Step& step) {
  arena_bytes_ = 0;
  for (size_t s = 0; s < plan_.slots.size(); ++s) {
    offsets_[s] = arena_bytes_;
    arena_bytes_ += plan_.slots[s].bytes(step.batch.n_tokens, step.batch.n_outputs);
  }
  const auto bytes = static_cast<size_t>(arena_bytes_ * (step.replicated ? pool_.size() + 1 : 1));
  if (bytes > arena_.size()) {
    arena_ = Buffer();  // first the old memory back, then the new
    arena_ = Buffer::allocate(bytes, "buffers of a step of " + std::to_string(step.batch.n_tokens) + " tokens");
  }
  if (step.wanted.kept != nullptr) lay_out_keeper(step.batch.n_outputs, *step.wanted.kept);
}

void Executor::lay_out_keeper(int64_t n_outputs, KeptLogits& kept) {
  const int64_t lanes = pool_.size();
  kept.n_blocks = n_logit_blocks(program_->result_width());
  kept.largest.assign(static_cast<size_t>(n_outputs * kept.most), KeptLogit());
  kept.blocks.assign(static_cast<size_t>(n_outputs * kept.n_blocks), {KeptLogit().logit, 0.0f});
  largest_.assign(static_cast<size_t>(lanes * n_outputs * kept.most), KeptLogit());
  keeper_ = {kept.most,       kept.sums,          kept.n_blocks,
             largest_.data(), kept.blocks.data(), LogitKeeper::blocks_at_once(n_outputs),
             nullptr};
  const auto bytes = static_cast<size_t>(lanes * n_outputs * keeper_.tile_stride()) * sizeof(float);
  if (bytes > tiles_.size()) {
    tiles_ = Buffer();
    tiles_ = Buffer::allocate(bytes, "blocks of logits of " + std::to_string(n_outputs) + " sequences");
  }
  keeper_.tiles = tiles_.as<float>();
}

// Each lane may have seen any of the blocks: equal logits go by place.
void Executor::put_together(int64_t n_outputs, KeptLogits& kept) {
  const auto larger = [](const KeptLogit& a, const KeptLogit& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.place < b.place;
  };
  std::vector<KeptLogit> all;
  for (int64_t row = 0; row < n_outputs; ++row) {
    const LogitBlock* const blocks = kept.blocks.data() + row * kept.n_blocks;
    const auto no_number = [](const LogitBlock& block) { return std::isnan(block.largest); };
    if (std::any_of(blocks, blocks + kept.n_blocks, no_number)) continue;
    all.clear();
    for (int64_t lane = 0; lane < pool_.size(); ++lane) {
      const KeptLogit* const seen = largest_.data() + (lane * n_outputs + row) * kept.most;
      all.insert(all.end(), seen, seen + kept.most);
    }
    std::partial_sort_copy(all.begin(), all.end(), kept.largest.begin() + row * kept.most,
                           kept.largest.begin() + (row + 1) * kept.most, larger);
  }
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
    void* const data = slot < 0 ? static_cast<void*>(step.wanted.logits)
                                : (own_[v] ? own : shared) + offsets_[static_cast<size_t>(slot)];
    operands[v] = {.data = data, .type = type, .rows = rows, .wide_runs = kernels_.wants_wide_runs(type.format, rows)};
  }
  Operand& result = operands[static_cast<size_t>(program_->result())];
  result.candidates = step.batch.candidates;
  if (step.wanted.kept != nullptr) result.keeper = &keeper_;
}

bool Executor::run(const BatchView& batch, const KvLayout& kv, Wanted wanted, const Interrupted& interrupted,
                   const Observer& observer) {
  const bool replicated = pool_.size() > 1 && batch.n_tokens <= kReplicatedTokens;
  const Step step{batch, kv, wanted, replicated, interrupted, observer};
  lay_out(step);
  last_ = SIZE_MAX;
  pool_.run([&](Lane& lane) { run_lane(step, lane); });
  if (last_ != SIZE_MAX) return false;
  if (wanted.kept != nullptr) put_together(batch.n_outputs, *wanted.kept);
  return true;
}

void Executor::run_lane(const Step& step, Lane& lane) {
  bind(step, lane.id());
  Worker worker{lane, kernels_, scratch_.as<float>() + lane.id() * scratch_floats_, shared_.as<float>()};
  auto next_poll = Clock::now() + kPollInterval;
  const std::vector<Instruction>& instructions = program_->instructions();
  for (size_t i = 0; i < instructions.size(); ++i) {
    const Call call{instructions[i], operands_[static_cast<size_t>(lane.id())], program_->parameters(), step.batch,
                    step.kv};
    worker.alone = step.replicated && plan_.replicated[i];
    const auto started = step.observer ? Clock::now() : Clock::time_point();
    if (!worker.alone || lane.enter()) op(call.at.op).run(call, worker);
    if (lane.id() == 0 && step.interrupted && Clock::now() >= next_poll) {
      if (step.interrupted()) last_.store(i, std::memory_order_relaxed);
      next_poll = Clock::now() + kPollInterval;
    }
    if (step.observer) {
      lane.barrier();
      if (lane.id() == 0) step.observer({i, call, std::chrono::duration<double>(Clock::now() - started).count()});
      lane.barrier();            // nobody overwrites what it looks at
    } else if (!worker.alone) {  // nobody waits for a result that every lane has
      lane.finish();
    }
    // Watched, lanes meet behind every instruction and leave at the same one, by its number; else each when it sees it.
    const size_t last = last_.load(std::memory_order_relaxed);
    if (step.observer ? last == i : last <= i) return;
  }
}

}  // namespace jiffy
