// y[r,:] = (x[r,:] - mean) / sqrt(variance + eps) * w (+ b)    x, y: [rows, dim]  w, b: [dim]    (Ba et al. 2016)
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {

// Two passes for the two sums: E[x^2] - mean^2 would cancel where the mean is large beside the deviation.
void layer_norm(const LayerNormArgs& a) {
  for (int64_t r = a.begin; r < a.end; ++r) {
    const float* x = a.x + r * a.dim;
    const float total =
        sum_row(a.dim, [=](Floats chain, int64_t i, int n) { return add(chain, load_first(x + i, n)); });
    const Floats mean = splat(total / static_cast<float>(a.dim));
    const float squares = sum_row(a.dim, [=](Floats chain, int64_t i, int n) {
      const Floats d = keep_first(sub(load_first(x + i, n), mean), n, zeros());
      return fma(d, d, chain);
    });
    const Floats inverse = splat(inverse_root_of_mean(squares, a.dim, a.eps));
    const auto write = [&](int64_t i, int n) {
      const Floats y = mul(sub(load_first(x + i, n), mean), inverse), w = load_first(a.weight + i, n);
      store_first(a.y + r * a.dim + i, a.bias != nullptr ? fma(y, w, load_first(a.bias + i, n)) : mul(y, w), n);
    };
    int64_t i = 0;
    for (; i + kLanes <= a.dim; i += kLanes) {
      __builtin_prefetch(x + a.dim + i);  // of the next row
      write(i, kLanes);
    }
    if (i < a.dim) write(i, static_cast<int>(a.dim - i));
  }
}

}  // namespace jiffy::JIFFY_ISA
