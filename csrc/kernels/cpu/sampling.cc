// Over one row of logits: the largest, of all or of blocks, and exponentials with their sum.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {
namespace {

constexpr int32_t kInfinityBits = 0x7f800000;  // NaNs are above it, as bits of a magnitude
constexpr float kNone = -__builtin_inff();

// sum of exp(x - largest): pairs of vectors, then pairs of pairs, so that a number meets few roundings.
float sum_of_exponentials(const float* x, int64_t n, Floats largest) {
  constexpr int kVectors = kLogitBlock / kLanes;
  Floats e[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const int64_t left = n - v * kLanes;
    if (left >= kLanes) {
      e[v] = exp(sub(load(x + v * kLanes), largest));
    } else {
      const int lanes = left < 0 ? 0 : static_cast<int>(left);
      e[v] = keep_first(exp(sub(load_first(x + v * kLanes, lanes), largest)), lanes, zeros());
    }
  }
  for (int half = kVectors / 2; half > 0; half /= 2) {
    for (int v = 0; v < half; ++v) e[v] = add(e[v], e[v + half]);
  }
  return sum(e[0]);
}

}  // namespace

void argmax(const ArgmaxArgs& p) {
  Ints magnitude = splat(int32_t{0});
  const Floats lowest = splat(kNone);
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

void logit_blocks(const LogitBlocksArgs& p) {
  for (int64_t begin = 0; begin < p.n; begin += kLogitBlock) {
    const float* const x = p.x + begin;
    const int64_t n = smaller(kLogitBlock, p.n - begin), whole = n / kLanes * kLanes;
    Ints magnitude = splat(int32_t{0});
    Floats top = splat(kNone);
    for (int64_t i = 0; i < whole; i += kLanes) {
      const Floats v = load(x + i);
      magnitude = max(magnitude, abs_bits(v));
      top = max(top, v);
    }
    if (whole < n) {
      const int left = static_cast<int>(n - whole);
      const Floats v = load_first(x + whole, left);
      magnitude = max(magnitude, abs_bits(v));
      top = max(top, keep_first(v, left, splat(kNone)));
    }
    LogitBlock& block = p.blocks[begin / kLogitBlock];
    block.largest = max_lane(magnitude) < kInfinityBits ? max_lane(top) : __builtin_nanf("");
    if (!p.sums) continue;
    block.sum = block.largest == block.largest ? sum_of_exponentials(x, n, splat(block.largest)) : block.largest;
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
