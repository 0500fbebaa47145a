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
  const int32_t* exponent;
  const int32_t* correction;
  const float* scaled_sum;

  RowGroups(const ActivationView& x, int64_t at)
      : scale(x.scale + at), exponent(x.exponent + at), correction(x.correction + at), scaled_sum(x.scaled_sum + at) {}
};

// The kind of a group: how its weights have an offset, and whether the scales of the rows that it meets are powers of
// two.
template <Offset kOffsetOf, bool kPowersOf>
struct GroupKind {
  static constexpr Offset kOffset = kOffsetOf;
  static constexpr bool kPowers = kPowersOf;
};

// body(GroupKind<...>{}) for the groups of `f`.
template <class Body>
inline void with_group_kind(const WeightFormat& f, Body&& body) {
  if (activation_format(f).powers) return body(GroupKind<Offset::kNone, true>{});
  switch (f.offset) {
    case Offset::kNone:
      return body(GroupKind<Offset::kNone, false>{});
    case Offset::kMin:
      return body(GroupKind<Offset::kMin, false>{});
    case Offset::kZero:
      return body(GroupKind<Offset::kZero, false>{});
  }
}

// scale * the row's scale in the group `at`, but for what the whole row has in common. An addition to the exponent goes
// to pipes that the multiplications of codes leave alone (a Zen 4 core, i4, 512 x 2048 x 2048: 69 to 75 % of the
// peak). The bits of a zero become a number below 2^-106, which meets a sum of zero wherever jiffy chose the scale.
template <class Kind>
inline Floats scale_of_both(Floats scale, const RowGroups& x, int64_t at) {
  if constexpr (Kind::kPowers) return from_bits(add(bits(scale), splat(x.exponent[at])));
  return mul(scale, splat(x.scale[at]));
}

// total + scale * x.scale * (sum over the group of the weights' integers and the row's codes)
template <class Kind>
inline Floats add_group(Floats total, Ints sum, Floats scale, Floats offset, const RowGroups& x, int64_t at) {
  Floats dot = to_floats(sum);
  if constexpr (Kind::kOffset == Offset::kZero) {  // exact: both factors are small integers
    dot = fma(offset, splat(0.125f * static_cast<float>(x.correction[at])), dot);
  }
  total = fma(dot, scale_of_both<Kind>(scale, x, at), total);
  if constexpr (Kind::kOffset == Offset::kMin) total = fma(offset, splat(x.scaled_sum[at]), total);
  return total;
}

// The output of a row whose groups sum up to `total`.
template <class Kind>
inline Floats end_groups(Floats total, const float* row_scale, int64_t row) {
  if constexpr (Kind::kPowers) return mul(total, splat(row_scale[row]));
  return total;
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
