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
    const Floats s = div(one, add(one, exp(min(splat(88.0f), sub(zeros(), load_first(p.forget + i, n))))));
    const Floats before = p.before == nullptr ? zeros() : load_first(p.before + i, n);
    const Floats after = fma(s, before, mul(sub(one, s), x));
    store_first(p.after + i, after, n);
    store_first(p.y + i, max(zeros(), after), n);
  }
}

namespace {

constexpr int64_t kRowsInOrder = 128;  // of a sum

// The first n lanes of a column of rows. Halves of many rows are added for themselves, so that the error grows with the
// logarithm of their number.
Floats sum_of_rows(const float* x, int64_t rows, int64_t dim, int n) {
  if (rows > kRowsInOrder) {
    const int64_t half = rows / 2;
    return add(sum_of_rows(x, half, dim, n), sum_of_rows(x + half * dim, rows - half, dim, n));
  }
  Floats y = load_first(x, n);
  for (int64_t r = 1; r < rows; ++r) y = add(y, load_first(x + r * dim, n));
  return y;
}

// NaN where one of them is not finite.
Floats max_of_rows(const float* x, int64_t rows, int64_t dim, int n) {
  Floats y = load_first(x, n), seen = mul(y, zeros());
  for (int64_t r = 1; r < rows; ++r) {
    const Floats row = load_first(x + r * dim, n);
    y = max(y, row);
    seen = fma(row, zeros(), seen);
  }
  return add(y, seen);
}

}  // namespace

// y = one row of all rows of x
void pool(const PoolArgs& p) {
  const float* const x = p.pooling == Pooling::kLast ? p.x + (p.rows - 1) * p.dim : p.x;
  const Floats share = splat(1.0f / static_cast<float>(p.rows));
  for (int64_t i = 0; i < p.dim; i += kLanes) {
    const int n = static_cast<int>(smaller(kLanes, p.dim - i));
    const Floats y = p.pooling == Pooling::kMean  ? mul(sum_of_rows(x + i, p.rows, p.dim, n), share)
                     : p.pooling == Pooling::kMax ? max_of_rows(x + i, p.rows, p.dim, n)
                                                  : load_first(x + i, n);
    store_first(p.y + i, y, n);
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
