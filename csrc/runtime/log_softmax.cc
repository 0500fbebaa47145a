#include "runtime/log_softmax.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace jiffy {

void LogSoftmax::read(const float* logits, int64_t vocab_size) {
  logits_ = logits;
  vocab_size_ = vocab_size;
  int64_t best = -1;
  maxima_.resize(static_cast<size_t>((vocab_size + kMaxBlock - 1) / kMaxBlock));
  kernels_.argmax({logits, vocab_size, &best, maxima_.data()});
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

// As many blocks of logits as are asked for have a maximum that reaches `least`, so all of the likeliest do.
std::vector<std::pair<int32_t, float>> LogSoftmax::top(int64_t count) const {
  const size_t most = static_cast<size_t>(std::min(count, vocab_size_));
  float least = -std::numeric_limits<float>::infinity();
  if (most > 0 && most <= maxima_.size()) {
    std::vector<float> maxima = maxima_;
    std::nth_element(maxima.begin(), maxima.begin() + static_cast<std::ptrdiff_t>(most) - 1, maxima.end(),
                     std::greater<>());
    least = maxima[most - 1];
  }
  std::vector<std::pair<int32_t, float>> best;  // with logits, until the end
  for (size_t block = 0; most > 0 && block < maxima_.size(); ++block) {
    if (maxima_[block] < least) continue;
    const int64_t begin = static_cast<int64_t>(block) * kMaxBlock;
    for (int64_t id = begin; id < std::min(begin + kMaxBlock, vocab_size_); ++id) {
      if (logits_[id] >= least) best.emplace_back(static_cast<int32_t>(id), logits_[id]);
    }
  }
  const auto likelier = [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  };
  const auto end = best.begin() + static_cast<std::ptrdiff_t>(std::min(most, best.size()));
  std::partial_sort(best.begin(), end, best.end(), likelier);
  best.erase(end, best.end());
  for (auto& [id, value] : best) value = of(id);
  return best;
}

}  // namespace jiffy
