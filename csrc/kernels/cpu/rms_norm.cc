// y[r,:] = x[r,:] / sqrt(mean(x[r,:]^2) + eps) * w    x, y: [rows, dim]  w: [dim]
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/row_values.h"

namespace jiffy::JIFFY_ISA {

void rms_norm(const RmsNormArgs& a) {
  for (int64_t r = a.begin; r < a.end; ++r) {
    const float* x = a.x + r * a.dim;
    const Normalised value{x, a.weight, splat(inverse_rms(x, a.dim, a.eps))};
    for (int64_t i = 0; i < a.dim; i += kLanes) {
      const int n = static_cast<int>(smaller(kLanes, a.dim - i));
      store_first(a.y + r * a.dim + i, value(i, n), n);
    }
  }
}

}  // namespace jiffy::JIFFY_ISA
