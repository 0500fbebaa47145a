// Over one row of logits: the largest, and exponentials with their sum.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {

void argmax(const ArgmaxArgs& p) {
  Ints magnitude = splat(int32_t{0});
  const Floats lowest = splat(-__builtin_inff());
  Floats largest = lowest;
  for (int64_t begin = 0; begin < p.n; begin += kMaxBlock) {
    Floats block = lowest;
    for (int64_t i = begin; i < smaller(begin + kMaxBlock, p.n); i += kLanes) {
      const int n = static_cast<int>(smaller(kLanes, p.n - i));
      const Floats v = load_first(p.x + i, n);
      magnitude = max(magnitude, abs_bits(v));
      block = max(block, keep_first(v, n, lowest));
    }
    if (p.maxima != nullptr) p.maxima[begin / kMaxBlock] = max_lane(block);
    largest = max(largest, block);
  }
  *p.index = -1;
  if (max_lane(magnitude) >= kInfinityBits) return;
  const float wanted = max_lane(largest);
  for (int64_t i = 0; i < p.n && *p.index < 0; ++i) {
    if (p.x[i] == wanted) *p.index = i;
  }
}

// Each lane is summed apart, in double.
void softmax(const SoftmaxArgs& p) {
  alignas(64) float e[kLanes];
  double total[kLanes] = {};
  const Floats top = splat(p.max), inverse = splat(p.inverse_temperature);
  for (int64_t i = 0; i < p.n; i += kLanes) {
    const int n = static_cast<int>(smaller(kLanes, p.n - i));
    store(e, keep_first(exp(mul(sub(load_first(p.x + i, n), top), inverse)), n, zeros()));
    if (p.y != nullptr) store_first(p.y + i, load(e), n);
    for (int lane = 0; lane < kLanes; ++lane) total[lane] += e[lane];
  }
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) total[lane] += total[lane + half];
  }
  *p.sum = total[0];
}

}  // namespace jiffy::JIFFY_ISA
