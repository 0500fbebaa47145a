#include "runtime/log_softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace jiffy {

void LogSoftmax::read(const float* logits, int64_t vocab_size) {
  logits_ = logits;
  vocab_size_ = vocab_size;
  int64_t best = -1;
  kernels_.argmax({logits, vocab_size, &best});
  if (best < 0) {
    max_ = std::numeric_limits<double>::quiet_NaN();
    return;
  }
  double total = 0.0;
  kernels_.softmax({logits, nullptr, vocab_size, logits[best], 1.0f, &total});
  max_ = logits[best];
  log_sum_ = std::log(total);
}

float LogSoftmax::of(int64_t id) const { return static_cast<float>(logits_[id] - max_ - log_sum_); }

// The best so far are kept sorted; of all others only one comparison is made.
std::vector<std::pair<int32_t, float>> LogSoftmax::top(int64_t count) const {
  std::vector<std::pair<int32_t, float>> best;  // with logits, until the end
  const size_t most = static_cast<size_t>(std::min(count, vocab_size_));
  if (most == 0) return best;
  best.reserve(most + 1);
  const auto likelier = [](const auto& a, const auto& b) { return a.second > b.second; };
  for (int64_t id = 0; id < vocab_size_; ++id) {
    if (best.size() == most && !(logits_[id] > best.back().second)) continue;
    const std::pair<int32_t, float> entry(static_cast<int32_t>(id), logits_[id]);
    best.insert(std::upper_bound(best.begin(), best.end(), entry, likelier), entry);
    if (best.size() > most) best.pop_back();
  }
  for (auto& [id, value] : best) value = of(id);
  return best;
}

}  // namespace jiffy
