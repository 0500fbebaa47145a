// Where the numbers of a row come from: as they are, or normalised on the way. Included inside no namespace.
#pragma once

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

// Asks for the group of 128 columns that comes next.
inline void prefetch_group(const float* x) {
  for (int i = 0; i < 8; ++i) __builtin_prefetch(x + i * kLanes);
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

}  // namespace
}  // namespace jiffy::JIFFY_ISA
