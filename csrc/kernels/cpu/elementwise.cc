// add, silu_mul, gelu, rope: one pass over rows of floats.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {

// y = a + b
void add(const AddArgs& p) {
  for (int64_t i = p.begin; i < p.end; i += kLanes) {
    const int n = static_cast<int>(smaller(kLanes, p.end - i));
    store_first(p.y + i, add(load_first(p.a + i, n), load_first(p.b + i, n)), n);
  }
}

// y = gate / (1 + exp(-gate)) * up
void silu_mul(const SiluMulArgs& p) {
  for (int64_t i = p.begin; i < p.end; i += kLanes) {
    const int n = static_cast<int>(smaller(kLanes, p.end - i));
    store_first(p.y + i, silu_mul(load_first(p.gate + i, n), load_first(p.up + i, n)), n);
  }
}

// y = x Phi(x), or its approximation by tanh
void gelu(const GeluArgs& p) {
  for (int64_t i = p.begin; i < p.end; i += kLanes) {
    const int n = static_cast<int>(smaller(kLanes, p.end - i));
    const Floats x = load_first(p.x + i, n);
    store_first(p.y + i, p.tanh ? gelu_tanh(x) : gelu(x), n);
  }
}

// y[i] = x[i] cos - x[i + half] sin,  y[i + half] = x[i + half] cos + x[i] sin
void rope(const RopeArgs& p) {
  const int64_t half = p.head_dim / 2;
  for (int64_t r = p.begin; r < p.end; ++r) {
    const float* cosines = p.cosines + p.positions[r] * half;
    const float* sines = p.sines + p.positions[r] * half;
    for (int64_t h = 0; h < p.n_heads; ++h) {
      const float* x = p.x + (r * p.n_heads + h) * p.head_dim;
      float* y = p.y + (r * p.n_heads + h) * p.head_dim;
      for (int64_t i = 0; i < half; i += kLanes) {
        const int n = static_cast<int>(smaller(kLanes, half - i));
        const Floats c = load_first(cosines + i, n), s = load_first(sines + i, n);
        const Floats first = load_first(x + i, n), second = load_first(x + half + i, n);
        store_first(y + i, sub(mul(first, c), mul(second, s)), n);
        store_first(y + half + i, add(mul(second, c), mul(first, s)), n);
      }
    }
  }
}

}  // namespace jiffy::JIFFY_ISA
