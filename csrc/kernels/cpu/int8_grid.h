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

// `magnitudes` are abs_bits() of the values, by lanes. They are compared as integers, where NaN is largest: a NaN
// reaches the scale, so the logits, and is reported, never lost.
inline Int8Grid int8_grid(Ints magnitudes) {
  float largest[kLanes];
  store(largest, from_bits(splat(max_lane(magnitudes))));
  return {largest[0] / 127.0f, splat(largest[0] > 0 ? 127.0f / largest[0] : 0.0f)};
}

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
  const Int8Grid grid = int8_grid(magnitudes);
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
