// Shared by the kernels, over whichever vocabulary JIFFY_ISA names; included inside no namespace.
#pragma once

#include JIFFY_ISA_HEADER

namespace jiffy::JIFFY_ISA {
namespace {

inline constexpr int kLanes = 16;

// e^x to 2 ulp for x in [-87, 88], clamped outside; a NaN gives e^-87.
// Cody-Waite reduction x = n ln 2 + r, |r| <= ln 2 / 2, then a degree-6 Taylor polynomial (remainder r^7 / 5040
// < 1.2e-7 e^r).
inline Floats exp(Floats x) {
  x = min(max(x, splat(-87.0f)), splat(88.0f));
  const Floats round = splat(0x1.8p23f);  // adding it rounds to an integer, ties to even, in the low bits
  const Floats shifted = fma(x, splat(0x1.715476p0f), round);
  const Floats n = sub(shifted, round);
  Floats r = fma(n, splat(-0x1.62e400p-1f), x);
  r = fma(n, splat(-0x1.7f7d1cp-20f), r);
  constexpr float kTaylor[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  Floats p = splat(1.0f / 720);
  for (const float c : kTaylor) p = fma(p, r, splat(c));
  return from_bits(add(bits(p), shift_left<23>(bits(shifted))));
}

// gate / (1 + exp(-gate)) * up
inline Floats silu_mul(Floats gate, Floats up) {
  const Floats negative = sub(zeros(), gate);
  return mul(div(gate, add(splat(1.0f), exp(negative))), up);
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

}  // namespace
}  // namespace jiffy::JIFFY_ISA
