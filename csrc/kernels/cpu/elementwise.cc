// add, mul, silu_mul, gelu, activation, ssru, pool, rope: one pass over rows of floats.
#include "kernels/cpu/activated.h"
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

// y = a * b
void mul(const MulArgs& p) {
  for (int64_t i = p.begin; i < p.end; i += kLanes) {
    const int n = static_cast<int>(smaller(kLanes, p.end - i));
    store_first(p.y + i, mul(load_first(p.a + i, n), load_first(p.b + i, n)), n);
  }
}

// y = max(x, 0), tanh(x) or x / (1 + exp(-x))
void activation(const ActivationArgs& p) {
  for (int64_t i = p.begin; i < p.end; i += kLanes) {
    const int n = static_cast<int>(smaller(kLanes, p.end - i));
    store_first(p.y + i, activated(p.function, load_first(p.x + i, n)), n);
  }
}

// c' = s * c + (1 - s) * x, y = max(c', 0)
void ssru(const SsruArgs& p) {
  for (int64_t i = p.begin; i < p.end; i += kLanes) {
    const int n = static_cast<int>(smaller(kLanes, p.end - i));
    const Floats one = splat(1.0f), x = load_first(p.x + i, n);
    const Floats s = div(one, add(one, exp(sub(zeros(), load_first(p.forget + i, n)))));
    const Floats before = p.before == nullptr ? zeros() : load_first(p.before + i, n);
    const Floats after = fma(s, before, mul(sub(one, s), x));
    store_first(p.after + i, after, n);
    store_first(p.y + i, max(zeros(), after), n);
  }
}

// Rows are added, or compared, in their order. What is not finite in one of them is NaN in a maximum, or as it is.
void pool(const PoolArgs& p) {
  const bool single = p.pooling == Pooling::kFirst || p.pooling == Pooling::kLast;
  const int64_t begin = p.pooling == Pooling::kLast ? p.rows - 1 : 0, end = single ? begin + 1 : p.rows;
  const Floats share = splat(1.0f / static_cast<float>(p.rows));
  for (int64_t i = 0; i < p.dim; i += kLanes) {
    const int n = static_cast<int>(smaller(kLanes, p.dim - i));
    const float* x = p.x + i;
    Floats y = load_first(x + begin * p.dim, n), seen = mul(y, zeros());
    for (int64_t r = begin + 1; r < end; ++r) {
      const Floats row = load_first(x + r * p.dim, n);
      y = p.pooling == Pooling::kMean ? add(y, row) : max(y, row);
      seen = fma(row, zeros(), seen);
    }
    if (p.pooling == Pooling::kMean) y = mul(y, share);
    store_first(p.y + i, p.pooling == Pooling::kMax ? add(y, seen) : y, n);
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
