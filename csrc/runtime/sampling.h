// How a request chooses its next token.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/cpu/kernels.h"

namespace jiffy {

struct SamplingParams {
  int64_t max_tokens = 256;
  float temperature = 0.0f;  // below 1e-4: the most likely token
  int64_t top_k = 0;         // 0: all
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;  // runtime/penalties.h
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  int64_t logprobs = -1;  // 0: the chosen token's; k: also those of the k likeliest; -1: none
  uint64_t seed = 0;
  bool ignore_eos = false;
  std::vector<int32_t> stop_ids = {};  // end-of-sequence tokens

  void validate() const;  // throws Error kParameter naming the field
};

inline constexpr int64_t kMostLogprobs = 20;

// The seed of completion `index` of a request for several; that of number 0 is the request's own.
uint64_t completion_seed(uint64_t seed, int64_t index);

// Top-k, top-p and min-p each keep the beginning of the tokens in the order of their probability (equal ones by id), so
// the shortest beginning counts; top-p is a share of what top-k leaves. Only the likeliest are sorted, about as many
// as are kept: a whole vocabulary takes milliseconds.
class Sampler {
 public:
  explicit Sampler(const Kernels& kernels) : kernels_(kernels) {}

  // The token, or none for logits with a NaN or an infinity. The random number is a function of the seed and of
  // `n_generated` alone: neighbours, preemption and restarts change nothing. The same on every instruction set.
  std::optional<int32_t> sample(const float* logits, int64_t vocab_size, const SamplingParams& params,
                                int64_t n_generated);

 private:
  // Sorts the likeliest `count` of ids_ to the front.
  void sort_front(size_t count);
  // How many of the sorted ids_ are kept; their weights' sum goes to `mass`.
  size_t keep(const SamplingParams& params, double total, double& mass);

  const Kernels& kernels_;
  std::vector<float> weights_;  // [vocab_size] exp((logit - max) / temperature)
  std::vector<int32_t> ids_;
};

}  // namespace jiffy
