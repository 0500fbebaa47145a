// A group of integer weights: its header, and what its sums add to an output. Included inside no namespace.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {
namespace {

struct Header {
  Floats scale, offset;
  const uint8_t* codes;
};

// Reads the header of `group`; `line` is where the stream stands, `pair` where the last header of two groups was.
template <Offset kOffset>
inline Header read_header(bool f32_header, int64_t group, const uint8_t* line, const uint8_t*& pair) {
  if (f32_header) {
    const float* f = reinterpret_cast<const float*>(line);
    if constexpr (kOffset == Offset::kNone) return {load(f), zeros(), line + kLineBytes};
    return {load(f), load(f + kLanes), line + 2 * kLineBytes};
  }
  if constexpr (kOffset != Offset::kNone) return {load_f16(line), load_f16(line + 32), line + kLineBytes};
  if (group % 2 == 1) return {load_f16(pair + 32), zeros(), line};
  pair = line;
  return {load_f16(line), zeros(), line + kLineBytes};
}

// What quantised rows have beside their codes, from some place on.
struct RowGroups {
  const float* scale;
  const int32_t* correction;
  const float* scaled_sum;

  RowGroups(const ActivationView& x, int64_t at)
      : scale(x.scale + at), correction(x.correction + at), scaled_sum(x.scaled_sum + at) {}
};

// total + scale * x.scale * (sum over the group of the weights' integers and the row's codes)
template <Offset kOffset>
inline Floats add_group(Floats total, Ints sum, Floats scale, Floats offset, const RowGroups& x, int64_t at) {
  Floats dot = to_floats(sum);
  if constexpr (kOffset == Offset::kZero) {  // exact: both factors are small integers
    dot = fma(offset, splat(0.125f * static_cast<float>(x.correction[at])), dot);
  }
  total = fma(dot, mul(scale, splat(x.scale[at])), total);
  if constexpr (kOffset == Offset::kMin) total = fma(offset, splat(x.scaled_sum[at]), total);
  return total;
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
