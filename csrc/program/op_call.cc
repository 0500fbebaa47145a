#include "program/op_call.h"

#include <algorithm>
#include <chrono>
#include <numeric>

namespace jiffy {
namespace {

[[noreturn]] void wrong(const std::string& where, const std::string& expected, const std::string& found) {
  fail(ErrorKind::kParameter, where, expected, found);
}

void in_range(const std::string& where, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    wrong(where, std::to_string(least) + " to " + std::to_string(most), std::to_string(value));
  }
}

int64_t blocks_of(int64_t length) { return (length + kBlockSize - 1) / kBlockSize; }

}  // namespace

RaggedKv::RaggedKv(KvType type, int64_t n_kv_heads, int64_t head_dim, std::vector<int64_t> lengths, int64_t state_dim)
    : lengths_(std::move(lengths)) {
  in_range("state_dim", state_dim, 0, INT32_MAX);
  in_range("n_kv_heads", n_kv_heads, 1, INT32_MAX);
  in_range("head_dim", head_dim, 1, kMaxHeadDim);
  int64_t blocks = 0;
  for (const int64_t length : lengths_) {
    in_range("lengths", length, 1, INT32_MAX);
    blocks += blocks_of(length);
  }
  in_range("blocks of all lengths", blocks, 1, INT32_MAX);
  layout_ = {.type = type,
             .n_layers = 1,
             .n_kv_heads = n_kv_heads,
             .head_dim = head_dim,
             .n_state_layers = state_dim > 0 ? 1 : 0,
             .state_dim = state_dim};
  size_t bytes = 0;
  if (__builtin_mul_overflow(blocks, layout_.block_bytes(), &bytes)) {
    fail(ErrorKind::kOutOfMemory, "keys and values", "at most 2^64 bytes", std::to_string(blocks) + " blocks");
  }
  memory_ = Buffer::allocate(bytes, "keys and values");
  layout_.data = memory_.as<uint8_t>();
  blocks_.resize(static_cast<size_t>(blocks));
  std::iota(blocks_.begin(), blocks_.end(), 0);
}

std::vector<SliceView> RaggedKv::slices(const std::vector<int64_t>& counts) const {
  if (counts.size() != lengths_.size()) {
    wrong("counts", std::to_string(lengths_.size()) + " sequences", std::to_string(counts.size()));
  }
  std::vector<SliceView> slices;
  const int32_t* table = blocks_.data();
  int64_t begin = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    in_range("counts", counts[i], 1, lengths_[i]);
    slices.push_back({begin, begin + counts[i], lengths_[i] - counts[i], table});
    begin += counts[i];
    table += blocks_of(lengths_[i]);
  }
  return slices;
}

OpCall::OpCall(OpCallSpec spec) : spec_(std::move(spec)) {
  check_operands();
  if (spec_.kv != nullptr) {
    slices_ = spec_.kv->slices(spec_.counts);
    spec_.positions.clear();
    for (const SliceView& s : slices_) {
      for (int64_t i = s.begin; i < s.end; ++i) {
        spec_.positions.push_back(static_cast<int32_t>(s.position + i - s.begin));
      }
    }
  }
  check_batch();
}

void OpCall::check_operands() {
  const std::string where = op(spec_.at.op).name;
  const auto check = [&](const std::vector<int>& indices, int least, size_t size, const char* what) {
    for (const int i : indices) in_range(where + ", " + what, i, least, static_cast<int64_t>(size) - 1);
  };
  check(spec_.at.inputs, 0, spec_.operands.size(), "input");
  check(spec_.at.outputs, 0, spec_.operands.size(), "output");
  check(spec_.at.parameters, -1, spec_.parameters.size(), "parameter");
  std::vector<Value> values;
  for (Operand& operand : spec_.operands) {
    const bool pooled = spec_.at.op == OpKind::kPool && !values.empty();
    if (pooled) operand.type.space = Space::kOutputs;
    values.push_back(operand.type);
    if (rows_ == 0) rows_ = operand.rows;
    const int64_t rows = pooled ? static_cast<int64_t>(spec_.counts.size()) : rows_;
    in_range(where + ", rows", operand.rows, rows, rows);
  }
  in_range(where + ", rows", rows_, 1, INT32_MAX);
  op(spec_.at.op).check(Check(where, spec_.at, values, spec_.parameters));
}

// What a model's program and scheduler would have seen to.
void OpCall::check_batch() const {
  const OpKind kind = spec_.at.op;
  const std::string where = op(kind).name;
  const auto indices_of_parameter = [&](const std::vector<int32_t>& indices, const char* what) {
    in_range(where + ", " + what, static_cast<int64_t>(indices.size()), rows_, rows_);
    const int64_t rows = spec_.parameters[static_cast<size_t>(spec_.at.parameters[0])].rows;
    for (const int32_t i : indices) in_range(where + ", " + what, i, 0, rows - 1);
  };
  if (kind == OpKind::kEmbedding) {
    const bool by_position = spec_.at.attributes.indices == Indices::kPositions;
    indices_of_parameter(by_position ? spec_.positions : spec_.token_ids, by_position ? "positions" : "token ids");
  }
  if (kind == OpKind::kRope) indices_of_parameter(spec_.positions, "positions");
  const bool cached = kind == OpKind::kKvWrite || kind == OpKind::kAttention;
  if (!cached && kind != OpKind::kPool && kind != OpKind::kSsru) return;
  if (spec_.kv == nullptr) wrong(where, "keys and values", "none");
  in_range(where + ", counts together", slices_.back().end, rows_, rows_);
  const Attributes& a = spec_.at.attributes;
  if (kind != OpKind::kPool) in_range(where + ", layer", a.layer, 0, 0);
  if (kind == OpKind::kSsru) {
    const int64_t width = spec_.operands[static_cast<size_t>(spec_.at.outputs[0])].type.width;
    in_range(where + ", state_dim", width, spec_.kv->layout().state_dim, spec_.kv->layout().state_dim);
  }
  if (!cached) return;
  if (a.cross) wrong(where + ", cross", "false", "true");
  in_range(where + ", n_kv_heads", a.n_kv_heads, spec_.kv->layout().n_kv_heads, spec_.kv->layout().n_kv_heads);
  in_range(where + ", head_dim", a.head_dim, spec_.kv->layout().head_dim, spec_.kv->layout().head_dim);
}

int64_t OpCall::scratch_floats(const Kernels& kernels) const {
  return jiffy::scratch_floats(spec_.parameters, kMaxHeadDim, kernels);
}

void OpCall::run(Worker& worker) const {
  const BatchView batch{.token_ids = spec_.token_ids.data(),
                        .type_ids = spec_.token_ids.data(),
                        .positions = spec_.positions.data(),
                        .n_tokens = rows_,
                        .slices = slices_.data(),
                        .n_slices = static_cast<int64_t>(slices_.size()),
                        .output_rows = nullptr,
                        .n_outputs = 0};
  const KvLayout kv = spec_.kv == nullptr ? KvLayout{} : spec_.kv->layout();
  std::vector<Operand> operands = spec_.operands;
  for (Operand& o : operands) o.wide_runs = worker.kernels.wants_wide_runs(o.type.format, o.rows);
  op(spec_.at.op).run({spec_.at, operands, spec_.parameters, batch, kv}, worker);
}

void ArgmaxRows::run(Worker& worker) const {
  worker.share(rows_, 1, [&](int64_t r, int64_t) { worker.kernels.argmax({x_ + r * n_, n_, indices_ + r}); });
}

void SoftmaxRows::run(Worker& worker) const {
  worker.share(rows_, 1, [&](int64_t r, int64_t) {
    worker.kernels.softmax({x_ + r * n_, y_ + r * n_, n_, max_[r], 1.0f, sums_ + r});
  });
}

void LogitBlockRows::run(Worker& worker) const {
  const int64_t blocks = (n_ + kLogitBlock - 1) / kLogitBlock;
  worker.share(rows_, 1,
               [&](int64_t r, int64_t) { worker.kernels.logit_blocks({x_ + r * n_, n_, blocks_ + r * blocks, true}); });
}

double run_all(const std::vector<std::shared_ptr<Work>>& work, int64_t repeats, ThreadPool& pool,
               const Kernels& kernels) {
  int64_t floats = 16;
  for (const auto& each : work) floats = std::max(floats, each->scratch_floats(kernels));
  Buffer scratch = Buffer::allocate(static_cast<size_t>(floats * pool.size()) * sizeof(float), "scratch memory");
  Buffer shared = Buffer::allocate(kSharedFloats * sizeof(float), "attention states");
  // A lane without a core finds the work begun, or even done, so the first lane behind the barrier starts the clock.
  std::vector<std::chrono::steady_clock::time_point> begins(static_cast<size_t>(pool.size()));
  std::chrono::steady_clock::time_point end;
  pool.run([&](Lane& lane) {
    Worker worker{lane, kernels, scratch.as<float>() + lane.id() * floats, shared.as<float>()};
    lane.barrier();
    begins[static_cast<size_t>(lane.id())] = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < repeats; ++i) {
      for (const auto& each : work) {
        each->run(worker);
        lane.finish();
      }
    }
    if (lane.id() == 0) end = std::chrono::steady_clock::now();
  });
  return std::chrono::duration<double>(end - *std::min_element(begins.begin(), begins.end())).count();
}

}  // namespace jiffy
