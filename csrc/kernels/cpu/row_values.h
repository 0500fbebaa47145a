// Where the numbers of a row come from: as they are, or normalised or rotated on the way. Included inside no namespace.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {
namespace {

inline float inverse_rms(const float* x, int64_t dim, float eps) {
  const float squares = sum_row(dim, [=](Floats chain, int64_t i, int n) {
    const Floats v = load_first(x + i, n);
    return fma(v, v, chain);
  });
  return inverse_root_of_mean(squares, dim, eps);
}

// 128 columns are read together where they can be.
constexpr int kGroupVectors = kColsTogether / kLanes;

// Asks for the 128 columns that come next.
inline void prefetch_group(const float* x) {
  for (int i = 0; i < kGroupVectors; ++i) __builtin_prefetch(x + i * kLanes);
}

struct Plain {
  const float* x;
  void prefetch(int64_t i) const { prefetch_group(x + i); }
  Floats operator()(int64_t i, int n) const { return load_first(x + i, n); }
};
struct Normalised {
  const float* x;
  const float* weight;
  Floats inverse;
  void prefetch(int64_t i) const { prefetch_group(x + i); }
  Floats operator()(int64_t i, int n) const {
    return mul(mul(load_first(x + i, n), inverse), load_first(weight + i, n));
  }
};

// Numbers rotated by blocks: three stages of sums and differences of whole vectors, no lane meets another.
struct Rotated {
  const float* x = nullptr;
  int64_t block = -1;  // the one in `rotated`
  float rotated[kRotated];

  Rotated() {}
  explicit Rotated(const float* x) : x(x) {}
  void prefetch(int64_t i) const { prefetch_group(x + i); }
  Floats operator()(int64_t i, int n) {
    if (i / kRotated != block) {
      Floats v[kGroupVectors];
      rotate(i / kRotated * kRotated, v);
      for (int k = 0; k < kGroupVectors; ++k) store(rotated + k * kLanes, v[k]);
      block = i / kRotated;
    }
    return load_first(rotated + i % kRotated, n);
  }
  void rotate(int64_t begin, Floats (&v)[kGroupVectors]) const {
    static_assert(kRotated == kColsTogether && kGroupVectors == 8);
    for (int k = 0; k < kGroupVectors; ++k) v[k] = load(x + begin + k * kLanes);
#pragma GCC unroll 3
    for (int half = 1; half < kGroupVectors; half *= 2) {
#pragma GCC unroll 8
      for (int i = 0; i < kGroupVectors; ++i) {
        if ((i & half) != 0) continue;
        const Floats a = v[i], b = v[i + half];
        v[i] = add(a, b);
        v[i + half] = sub(a, b);
      }
    }
  }
};

// v = the 128 numbers from `begin` on; those behind them are asked for.
template <class Value>
inline void read_group(const Value& value, int64_t begin, Floats (&v)[kGroupVectors]) {
  value.prefetch(begin + kColsTogether);
  if constexpr (requires { value.rotate(begin, v); }) {
    value.rotate(begin, v);
  } else {
    for (int k = 0; k < kGroupVectors; ++k) v[k] = value(begin + k * kLanes, kLanes);
  }
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
