#include "support.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <tuple>

namespace jiffy::check {
namespace {

constexpr int64_t kDim = 48, kFfnDim = 80, kHeads = 3, kKvHeads = 1, kHeadDim = 20;

// Packed random weights; every call draws others.
class TinyWeights {
 public:
  explicit TinyWeights(Trace& trace) : trace_(trace) {}

  int matrix(int64_t rows, int64_t cols, const char* format, float scale = 0.25f) {
    auto weight = Weight::create("w", rows, cols, parse_format(format, "test"));
    fill(*weight, scale);
    return trace_.matrix(std::move(weight));
  }
  std::pair<int, int> pair(int64_t rows, int64_t cols, const char* format) {
    const auto [gate, up] = Weight::create_pair("gate", "up", rows, cols, parse_format(format, "test"));
    fill(*gate, 0.25f);
    fill(*up, 0.25f);
    return {trace_.matrix(gate), trace_.matrix(up)};
  }
  int embedding() {
    auto weight = Weight::create("embedding", kTinyVocab + 1, kDim, parse_format("f32", "test"));
    std::vector<float> data = normal_floats((kTinyVocab + 1) * kDim, ++seed_, 1.0f);
    std::fill(data.begin() + kOverflowing * kDim, data.end(), 3e38f);
    weight->pack_rows(0, kTinyVocab + 1, reinterpret_cast<const uint8_t*>(data.data()), SourceType::kF32, pool_);
    return trace_.matrix(std::move(weight));
  }
  int vector(int64_t width, float mean) {
    std::vector<float> data = normal_floats(static_cast<size_t>(width), ++seed_, 0.1f);
    for (float& x : data) x += mean;
    return trace_.floats("v", std::move(data));
  }

 private:
  void fill(Weight& weight, float scale) {
    const int64_t rows = weight.matrix().rows;
    const std::vector<float> data = normal_floats(static_cast<size_t>(rows * weight.matrix().cols), ++seed_, scale);
    weight.pack_rows(0, rows, reinterpret_cast<const uint8_t*>(data.data()), SourceType::kF32, pool_);
  }

  Trace& trace_;
  ThreadPool pool_{1};
  unsigned seed_ = 0;
};

std::pair<int, int> rope_tables(Trace& trace, int64_t context) {
  std::vector<float> cosines, sines;
  for (int64_t p = 0; p < context; ++p) {
    for (int64_t i = 0; i < kHeadDim / 2; ++i) {
      const double angle = static_cast<double>(p) * std::pow(100.0, -2.0 * static_cast<double>(i) / kHeadDim);
      cosines.push_back(static_cast<float>(std::cos(angle)));
      sines.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  const int c = trace.floats("cosines", std::move(cosines), context);
  return {c, trace.floats("sines", std::move(sines), context)};
}

int attention_block(Trace& t, TinyWeights& w, int x, int64_t layer, const std::pair<int, int>& rope) {
  const bool mixed = layer == 0;
  const int h = t.apply(OpKind::kRmsNorm, {x}, {w.vector(kDim, 1.0f)}, kDim, {.eps = 1e-5f});
  const int64_t kv = kKvHeads * kHeadDim;
  const auto bias = [&](int64_t width) { return mixed ? -1 : w.vector(width, 0.0f); };
  int q = t.matmul(h, w.matrix(kHeads * kHeadDim, kDim, mixed ? "i4" : "i8"), bias(kHeads * kHeadDim));
  int k = t.matmul(h, w.matrix(kv, kDim, mixed ? "i8g32" : "i8"), bias(kv));
  const int v = t.matmul(h, w.matrix(kv, kDim, mixed ? "i4a" : "f32"), bias(kv));
  const Attributes heads{
      .scale = 0.5f, .layer = layer, .n_heads = kHeads, .n_kv_heads = kKvHeads, .head_dim = kHeadDim};
  q = t.apply(OpKind::kRope, {q}, {rope.first, rope.second}, kHeads * kHeadDim, heads);
  Attributes kv_heads = heads;
  kv_heads.n_heads = kKvHeads;
  k = t.apply(OpKind::kRope, {k}, {rope.first, rope.second}, kv, kv_heads);
  t.instruction({OpKind::kKvWrite, {k, v}, {}, {}, heads});
  const int y = t.apply(OpKind::kAttention, {q}, {}, kHeads * kHeadDim, heads);
  const int out = t.matmul(y, w.matrix(kDim, kHeads * kHeadDim, mixed ? "i8" : "f32"));
  return t.apply(OpKind::kAdd, {x, out}, {}, kDim);
}

int ffn_block(Trace& t, TinyWeights& w, int x, int64_t layer) {
  const int h = t.apply(OpKind::kRmsNorm, {x}, {w.vector(kDim, 1.0f)}, kDim, {.eps = 1e-5f});
  int gate, up;
  if (layer == 0) {
    std::tie(gate, up) = w.pair(kFfnDim, kDim, "i4g64");
  } else {
    gate = w.matrix(kFfnDim, kDim, "i4");
    up = w.matrix(kFfnDim, kDim, "i8g32");
  }
  const int g = t.matmul(h, gate), u = t.matmul(h, up);
  const int y = t.apply(OpKind::kSiluMul, {g, u}, {}, kFfnDim);
  const int out = t.matmul(y, w.matrix(kDim, kFfnDim, layer == 0 ? "i4" : "f32"));
  return t.apply(OpKind::kAdd, {x, out}, {}, kDim);
}

ProgramSpec tiny_spec(int64_t context) {
  Trace t(context);
  TinyWeights w(t);
  const auto rope = rope_tables(t, context);
  const int table = w.embedding();
  int x = t.apply(OpKind::kEmbedding, {}, {table}, kDim);
  x = t.apply(OpKind::kAdd, {x, x}, {}, kDim);  // infinite for kOverflowing
  for (int64_t layer = 0; layer < 2; ++layer) {
    x = attention_block(t, w, x, layer, rope);
    x = ffn_block(t, w, x, layer);
  }
  const int rows = t.value(kDim, {}, Space::kOutputs);
  t.instruction({OpKind::kSelect, {x}, {rows}, {}, {}});
  const int h = t.apply(OpKind::kRmsNorm, {rows}, {w.vector(kDim, 1.0f)}, kDim, {.eps = 1e-5f});
  return t.take(t.matmul(h, w.matrix(kTinyVocab, kDim, "i8g32")));
}

}  // namespace

bool succeeds_in_child(const std::function<bool()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(10);
    bool ok = false;
    try {
      ok = body();
    } catch (...) {
    }
    _exit(ok ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

std::vector<float> normal_floats(size_t n, unsigned seed, float scale) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> distribution(0.0f, scale);
  std::vector<float> v(n);
  for (float& x : v) x = distribution(rng);
  return v;
}

int Trace::value(int64_t width, RowFormat format, Space space) {
  spec_.values.push_back({space, width, format});
  return static_cast<int>(spec_.values.size()) - 1;
}

int Trace::matrix(std::shared_ptr<Weight> weight) {
  const PackedMatrix& m = weight->matrix();
  spec_.parameters.push_back({.name = weight->name(), .matrix = m, .rows = m.rows, .cols = m.cols});
  spec_.owners.push_back(std::move(weight));
  return static_cast<int>(spec_.parameters.size()) - 1;
}

int Trace::floats(const std::string& name, std::vector<float> data, int64_t rows) {
  const auto owner = std::make_shared<std::vector<float>>(std::move(data));
  const int64_t cols = static_cast<int64_t>(owner->size()) / rows;
  spec_.parameters.push_back({.name = name, .matrix = {}, .floats = owner->data(), .rows = rows, .cols = cols});
  spec_.owners.push_back(owner);
  return static_cast<int>(spec_.parameters.size()) - 1;
}

int Trace::apply(OpKind op, std::vector<int> inputs, std::vector<int> parameters, int64_t width,
                 Attributes attributes) {
  const Space space = inputs.empty() ? Space::kTokens : spec_.values[static_cast<size_t>(inputs[0])].space;
  const int y = value(width, {}, space);
  instruction({op, std::move(inputs), {y}, std::move(parameters), attributes});
  return y;
}

int Trace::activations(int x, const WeightFormat& format) {
  const RowFormat rows = activation_format(format);
  if (!rows.quantized()) return x;
  const auto [at, is_new] = quantized_.try_emplace({x, rows.name()}, -1);
  if (is_new) {
    const Value source = spec_.values[static_cast<size_t>(x)];
    at->second = value(source.width, rows, source.space);
    instruction({OpKind::kQuantize, {x}, {at->second}, {}, {}});
  }
  return at->second;
}

int Trace::matmul(int x, int weight, int bias) {
  const PackedMatrix m = spec_.parameters[static_cast<size_t>(weight)].matrix;
  return apply(OpKind::kMatmul, {activations(x, m.format)}, {weight, bias}, m.rows);
}

ProgramSpec Trace::take(int result) {
  spec_.result = result;
  return std::move(spec_);
}

std::shared_ptr<const Program> tiny_program(int64_t context, bool fused) {
  auto program = std::make_shared<const Program>(tiny_spec(context));
  return fused ? std::make_shared<const Program>(fuse(*program)) : program;
}

}  // namespace jiffy::check
