// The symmetric int8 grid of some values: x = scale * code, codes within +-127. Included inside no namespace.
#pragma once

#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {
namespace {

struct Int8Grid {
  float scale;
  Floats inverse;

  Ints codes(Floats v) const {
    return min(max(round_to_ints(mul(v, inverse)), splat(int32_t{-127})), splat(int32_t{127}));
  }
};

inline float float_of(int32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}

// `magnitude`: abs_bits() of the largest value. Compared as integers, NaN is largest: a NaN reaches the scale, so the
// logits, and is reported, never lost.
inline Int8Grid int8_grid(int32_t magnitude) {
  const float largest = float_of(magnitude);
  return {largest / 127.0f, splat(largest > 0 ? 127.0f / largest : 0.0f)};
}

// The grids of the groups of a row, each 2^e times the finest: x = scale * 2^e * code (quant/activations.h).
struct RowGrid {
  static constexpr int32_t kSteps = 20;       // e goes from 0 to this
  static constexpr float kLeast = 0x1p-90f;   // a row that is smaller counts as zeros: its scale is no normal number
  static constexpr int32_t kOne = 127 << 23;  // the bits of 1
  int32_t magnitude;
  float scale, inverse;

  RowGrid() = default;
  explicit RowGrid(int32_t magnitude) : magnitude(magnitude) {
    const float largest = float_of(magnitude);
    scale = largest / 127.0f / static_cast<float>(1 << kSteps);
    inverse = largest >= kLeast ? 127.0f / largest : 0.0f;
  }
  // e << 23 for a group: the exponent of largest / group, rounded down, is how much finer its grid can be.
  int32_t exponent(int32_t of_group) const {
    const int32_t finer = (magnitude - of_group) >> 23;
    return (finer < kSteps ? kSteps - finer : 0) << 23;
  }
  // x / scale = 2^e * code
  Int8Grid at(int32_t exponent) const {
    return {float_of(exponent + kOne), mul(splat(inverse), splat(float_of(kOne + (kSteps << 23) - exponent)))};
  }
};

// codes[0:n], then zeros up to whole lanes; returns the scale, and the codes' sum.
struct Int8Row {
  float scale;
  int32_t sum;
};
inline Int8Row quantize_lanes(const float* x, int64_t n, int8_t* codes) {
  Ints magnitudes = splat(int32_t{0});
  for (int64_t i = 0; i < n; i += kLanes) {
    magnitudes = max(magnitudes, abs_bits(load_first(x + i, static_cast<int>(smaller(kLanes, n - i)))));
  }
  const Int8Grid grid = int8_grid(max_lane(magnitudes));
  Ints total = splat(int32_t{0});
  for (int64_t i = 0; i < n; i += kLanes) {
    const Ints q = grid.codes(load_first(x + i, static_cast<int>(smaller(kLanes, n - i))));
    total = add(total, q);
    store_low_bytes(codes + i, q);
  }
  return {grid.scale, sum(total)};
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
