// Shared by the kernels, over whichever vocabulary JIFFY_ISA names; included inside no namespace.
#pragma once

#include JIFFY_ISA_HEADER

namespace jiffy::JIFFY_ISA {
namespace {

inline constexpr int kLanes = 16;

// A number as a type, for the parameter of a lambda.
template <auto kValue>
struct Constant {
  static constexpr auto value = kValue;
};

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// e^x to 2 ulp for x in [-87, 88.5], e^-87 below and for a NaN. Larger numbers are the caller's to keep out.
// Cody-Waite reduction x = n ln 2 + r, |r| <= ln 2 / 2, then a degree-6 Taylor polynomial (remainder r^7 / 5040
// < 1.2e-7 e^r).
inline Floats exp(Floats x) {
  x = max(x, splat(-87.0f));
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

// 2^x for x <= 0 to 2.1e-7 of it; 0 below -127, for -infinity and for NaN. At 0 it is exactly 1.
// 2^r, |r| <= 1/2, is a minimax polynomial that is 1 at 0 (1.1e-7).
inline Floats exp2(Floats x) {
  x = max(x, splat(-127.0f));  // where the exponent's bits become those of 0
  const Floats round = splat(0x1.8p23f);
  const Floats shifted = add(x, round);
  const Floats r = sub(x, sub(shifted, round));
  constexpr float kMinimax[] = {0x1.3cea88p-7f, 0x1.c6b752p-5f, 0x1.ebf9bcp-3f, 0x1.62e42ap-1f, 1.0f};
  Floats p = splat(0x1.5bba14p-10f);
  for (const float c : kMinimax) p = fma(p, r, splat(c));
  return from_bits(add(bits(p), shift_left<23>(bits(shifted))));
}

// gate / (1 + exp(-gate)) * up. Below -88 the quotient stays at -6e-37, nearer to 0 than anything counts;
// a NaN stays one.
inline Floats silu_mul(Floats gate, Floats up) {
  gate = max(splat(-88.0f), gate);
  const Floats negative = sub(zeros(), gate);
  return mul(div(gate, add(splat(1.0f), exp(negative))), up);
}

// 1 - 2 / (e^2x + 1), within 2^-23. A NaN stays one.
inline Floats tanh(Floats x) {
  x = max(splat(-20.0f), min(splat(20.0f), x));  // beyond it is 1
  const Floats t = sub(splat(1.0f), div(splat(2.0f), add(exp(add(x, x)), splat(1.0f))));
  return fma(x, zeros(), t);
}

inline Floats abs(Floats x) { return from_bits(abs_bits(x)); }

// x Phi(x) = max(x, 0) - |x| Q(|x|), where Q(a) = erfc(a / sqrt 2) / 2 = e^(-a^2 / 2) R(a): no digit cancels in either
// tail. R is a minimax polynomial in t = 1 / (1 + a / 4) over a in [0, 14], to 1.5e-8 of R. The rounding error of a^2
// goes into the exponential as its first-order factor.
// Within 20 * 2^-24 of the result, or 2^-126 where that is more; -inf gives its limit 0 to that error, NaN a NaN.
inline Floats gelu(Floats x) {
  const Floats a = min(abs(x), splat(14.0f));  // beyond it the product below is smaller than any normal number
  const Floats t = div(splat(1.0f), fma(a, splat(0.25f), splat(1.0f)));
  constexpr float kTail[] = {-0x1.91c550p-3f, 0x1.947b24p-2f, -0x1.5578d2p-2f, 0x1.37cb4ap-2f,  -0x1.4df7f8p-6f,
                             0x1.f1f124p-4f,  0x1.846242p-4f, 0x1.9a89b8p-4f,  -0x1.6a6348p-16f};
  Floats r = splat(0x1.16175cp-5f);
  for (const float c : kTail) r = fma(r, t, splat(c));
  const Floats square = mul(a, a), rest = fma(a, a, sub(zeros(), square));
  const Floats minus_half = splat(-0.5f);
  const Floats tail = mul(mul(a, r), fma(rest, minus_half, splat(1.0f)));
  return sub(max(zeros(), x), mul(tail, exp(mul(square, minus_half))));
}

// x / 2 (1 + tanh u) = x / (1 + e^-2u) = max(x, 0) - |x| / (1 + e^2|u|), u = sqrt(2 / pi) (x + 0.044715 x^3).
// A relative error of u is |2u| times that of the exponential: within (8 + 4 |2u|) * 2^-24 of the result, or 1e-37
// where that is more; infinities and NaN as in gelu().
inline Floats gelu_tanh(Floats x) {
  const Floats a = min(abs(x), splat(10.03f));  // 2u = 88
  const Floats twice_u = mul(a, fma(mul(a, a), splat(0.07135481627f), splat(1.5957691216f)));
  return sub(max(zeros(), x), div(a, add(splat(1.0f), exp(twice_u))));
}

// step(chain, i, n) folds the values [i, i + n) of a row into a chain of lanes. Four chains hide the latency of an FMA;
// the order of addition is the same on every set. They stay in registers, as whole vectors need no masks (LayerNorm of
// 768 columns: from 215 to 135 ns).
template <class Step>
inline float sum_row(int64_t dim, Step&& step) {
  Floats chain[4] = {zeros(), zeros(), zeros(), zeros()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= dim; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) chain[c] = step(chain[c], i + c * kLanes, kLanes);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c, i += kLanes) {
    if (i < dim) chain[c] = step(chain[c], i, static_cast<int>(smaller(kLanes, dim - i)));
  }
  return sum(add(add(chain[0], chain[1]), add(chain[2], chain[3])));
}

// 1 / sqrt(squares / dim + eps), squares a sum of dim squares
inline float inverse_root_of_mean(float squares, int64_t dim, float eps) {
  if (!(squares < __builtin_inff())) return __builtin_nanf("");  // 1 / inf would turn an overflow into zeros
  return 1.0f / __builtin_sqrtf(squares / static_cast<float>(dim) + eps);
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
