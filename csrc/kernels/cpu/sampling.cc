// Over one row of logits: the largest, and exponentials with their sum.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {

void argmax(const ArgmaxArgs& p) {
  Ints magnitude = splat(int32_t{0});
  Floats largest = splat(-__builtin_inff());
  for (int64_t i = 0; i < p.n; i += kLanes) {
    const int n = static_cast<int>(smaller(kLanes, p.n - i));
    const Floats v = load_first(p.x + i, n);
    magnitude = max(magnitude, abs_bits(v));
    largest = max(largest, keep_first(v, n, splat(-__builtin_inff())));
  }
  *p.index = -1;
  constexpr int32_t kInfinity = 0x7f800000;  // as bits; NaNs are above it
  if (max_lane(magnitude) >= kInfinity) return;
  const float wanted = max_lane(largest);
  for (int64_t i = 0; i < p.n && *p.index < 0; ++i) {
    if (p.x[i] == wanted) *p.index = i;
  }
}

void softmax(const SoftmaxArgs& p) {
  Floats total = zeros();
  const Floats top = splat(p.max), inverse = splat(p.inverse_temperature);
  for (int64_t i = 0; i < p.n; i += kLanes) {
    const int n = static_cast<int>(smaller(kLanes, p.n - i));
    const Floats e = keep_first(exp(mul(sub(load_first(p.x + i, n), top), inverse)), n, zeros());
    store_first(p.y + i, e, n);
    total = add(total, e);
  }
  *p.sum = sum(total);
}

}  // namespace jiffy::JIFFY_ISA
