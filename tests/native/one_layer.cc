#include "one_layer.h"

#include <algorithm>
#include <vector>

namespace jiffy::check {

using namespace one_layer;

int zero_weight(Trace& t, int64_t rows, int64_t cols, const char* format) {
  return t.matrix(Weight::create("w", rows, cols, parse_format(format, "test")));
}

ProgramSpec one_layer_spec() {
  constexpr Attributes kKeyHeads{.n_heads = 1, .head_dim = 16};
  Trace t(kContext);
  const int cosines = t.floats("cosines", std::vector<float>(kContext * 8), kContext);
  const int sines = t.floats("sines", std::vector<float>(kContext * 8), kContext);
  const int norm = t.floats("norm", std::vector<float>(kWidth));
  const int bias = t.floats("bias", std::vector<float>(kWidth));
  const int scale = t.floats("scale", std::vector<float>(kWidth));
  const int shift = t.floats("shift", std::vector<float>(kWidth));
  const int x = t.apply(OpKind::kEmbedding, {}, {zero_weight(t, kVocab, kWidth, "f32")}, kWidth);
  const int h = t.apply(OpKind::kRmsNorm, {x}, {norm}, kWidth, {.eps = 1e-5f});
  const int q = t.matmul(h, zero_weight(t, kWidth, kWidth, "i8g32"), bias);
  const int k = t.matmul(h, zero_weight(t, 16, kWidth, "i8g32"));
  const int v = t.matmul(h, zero_weight(t, 16, kWidth, "i4a"));
  const int rotated_q = t.apply(OpKind::kRope, {q}, {cosines, sines}, kWidth, kQueryHeads);
  const int rotated_k = t.apply(OpKind::kRope, {k}, {cosines, sines}, 16, kKeyHeads);
  t.instruction({OpKind::kKvWrite, {rotated_k, v}, {}, {}, kQueryHeads});
  const int attended = t.apply(OpKind::kAttention, {rotated_q}, {}, kWidth, kQueryHeads);
  const int out = t.matmul(attended, zero_weight(t, kWidth, kWidth, "f32"));
  const int y = t.apply(OpKind::kAdd, {x, out}, {}, kWidth);
  const int gate = t.matmul(y, zero_weight(t, 48, kWidth, "f32"));
  const int up = t.matmul(y, zero_weight(t, 48, kWidth, "f32"));
  const int product = t.apply(OpKind::kSiluMul, {gate, up}, {}, 48);
  const int down = t.matmul(product, zero_weight(t, kWidth, 48, "f32"));
  const int z = t.apply(OpKind::kAdd, {y, down}, {}, kWidth);
  const int scaled = t.apply(OpKind::kLayerNorm, {z}, {scale, shift}, kWidth, {.eps = 1e-5f});
  const int bent = t.apply(OpKind::kGelu, {scaled}, {}, kWidth);
  const int rows = t.value(kWidth, {}, Space::kOutputs);
  t.instruction({OpKind::kSelect, {bent}, {rows}, {}, {}});
  return t.take(t.matmul(rows, zero_weight(t, kVocab, kWidth, "f32")));
}

ProgramSpec one_layer_fused_spec() { return fuse(Program(one_layer_spec())); }

Instruction& find(ProgramSpec& spec, OpKind kind) {
  return *std::find_if(spec.instructions.begin(), spec.instructions.end(), [&](auto& at) { return at.op == kind; });
}
}  // namespace jiffy::check
