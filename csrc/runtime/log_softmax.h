// Log probabilities of tokens.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/cpu/kernels.h"

namespace jiffy {

// log softmax(x)[i] = x[i] - max(x) - log(sum(exp(x - max(x)))) of one row of logits. The kernels add the exponentials
// of a block in a fixed order, so that all instruction sets agree; blocks are added in double.
class LogSoftmax {
 public:
  explicit LogSoftmax(const Kernels& kernels) : kernels_(kernels) {}

  // Looks at logits [vocab_size], which must stay while it is asked about their places.
  void read(const float* logits, int64_t vocab_size);

  // The same of logits of which only this is known.
  void read(const LogitBlock* blocks, int64_t n_blocks);

  // NaN if a logit is none or infinite.
  float of_logit(float logit) const { return static_cast<float>(logit - max_ - log_sum_); }
  float of(int64_t id) const { return of_logit(logits_[id]); }
  bool finite() const { return max_ == max_; }

  // The `count` likeliest (id, log probability), equal ones by lower id.
  std::vector<std::pair<int32_t, float>> top(int64_t count) const;

 private:
  const Kernels& kernels_;
  const float* logits_ = nullptr;
  int64_t vocab_size_ = 0;
  double max_ = 0.0, log_sum_ = 0.0;
  std::vector<LogitBlock> blocks_;
  std::vector<float> maxima_, weights_;  // [blocks]: the largest of each, and exp(largest - max)
};

}  // namespace jiffy
