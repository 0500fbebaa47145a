#include "runtime/log_softmax.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace jiffy {

void LogSoftmax::read(const float* logits, int64_t vocab_size) {
  logits_ = logits;
  vocab_size_ = vocab_size;
  blocks_.resize(static_cast<size_t>((vocab_size + kLogitBlock - 1) / kLogitBlock));
  kernels_.logit_blocks({logits, vocab_size, blocks_.data(), true});
  read(blocks_.data(), static_cast<int64_t>(blocks_.size()));
}

void LogSoftmax::read(const LogitBlock* blocks, int64_t n_blocks) {
  const auto n = static_cast<size_t>(n_blocks);
  maxima_.resize(n);
  weights_.resize(n);
  bool finite = true;
  for (size_t i = 0; i < n; ++i) {
    maxima_[i] = blocks[i].largest;
    finite = finite && !std::isnan(blocks[i].largest);
  }
  if (!finite) {
    max_ = std::numeric_limits<double>::quiet_NaN();
    return;
  }
  const float largest = *std::max_element(maxima_.begin(), maxima_.end());
  double total = 0.0;
  kernels_.softmax({maxima_.data(), weights_.data(), n_blocks, largest, 1.0f, &total});
  total = 0.0;
  for (size_t i = 0; i < n; ++i) total += static_cast<double>(weights_[i]) * blocks[i].sum;
  max_ = largest;
  log_sum_ = std::log(total);
}

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
    const int64_t begin = static_cast<int64_t>(block) * kLogitBlock;
    for (int64_t id = begin; id < std::min(begin + kLogitBlock, vocab_size_); ++id) {
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
