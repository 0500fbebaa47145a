// Log probabilities of tokens.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/cpu/kernels.h"

namespace jiffy {

// log softmax(x)[i] = x[i] - max(x) - log(sum(exp(x - max(x)))) of one row of logits. The kernels take the
// exponentials and add them in double, so that all instruction sets agree.
class LogSoftmax {
 public:
  explicit LogSoftmax(const Kernels& kernels) : kernels_(kernels) {}

  // Looks at logits [vocab_size], which must stay while it is asked about them.
  void read(const float* logits, int64_t vocab_size);

  // NaN if a logit is none or infinite.
  float of(int64_t id) const;

  // The `count` likeliest (id, log probability), equal ones by lower id. If `n` logits have been lowered since read(),
  // so many fewer at worst.
  std::vector<std::pair<int32_t, float>> top(int64_t count) const;

 private:
  const Kernels& kernels_;
  const float* logits_ = nullptr;
  int64_t vocab_size_ = 0;
  double max_ = 0.0, log_sum_ = 0.0;
  std::vector<float> maxima_;  // of the blocks of logits
};

}  // namespace jiffy
