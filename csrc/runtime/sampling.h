// How a request chooses its next token.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "runtime/beam_search.h"
#include "runtime/constraints.h"
#include "runtime/ranking.h"

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
  Constraints constraints = {};
  BeamParams beams = {};

  void validate() const;  // throws Error kParameter naming the field

  bool greedy() const { return temperature < 1e-4f; }
  bool keeps_all() const { return top_k == 0 && top_p == 1.0f && min_p == 0.0f; }
  bool penalises() const { return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f; }
  // The largest logit's number decides, and nothing else is asked about logits.
  bool wants_likeliest() const { return greedy() && !penalises() && logprobs < 0 && constraints.none() && !searches(); }
  bool searches() const { return beams.width > 1; }
};

inline constexpr int64_t kMostLogprobs = 20;

// The seed of completion `index` of a request for several; that of number 0 is the request's own.
uint64_t completion_seed(uint64_t seed, int64_t index);

// Top-k, top-p and min-p each keep the beginning of the tokens in the order of their logits (equal ones by id), so the
// shortest beginning counts; top-p is a share of what top-k leaves. No vocabulary is ever sorted (runtime/ranking.h).
class Sampler {
 public:
  explicit Sampler(const Kernels& kernels) : kernels_(kernels) {}

  // The token, or none for logits with a NaN or an infinity. The random number is a function of the seed and of
  // `n_generated` alone: neighbours, preemption and restarts change nothing. The same on every instruction set.
  std::optional<int32_t> sample(const float* logits, int64_t vocab_size, const SamplingParams& params,
                                int64_t n_generated);

 private:
  void take_top(const float* logits, int64_t vocab_size, size_t count);
  int32_t draw(const float* logits, int64_t count, float max, const SamplingParams& params, double u);

  const Kernels& kernels_;
  std::vector<float> maxima_;       // of the blocks of logits
  std::vector<int32_t> ids_;        // [top_k] that are left, ascending
  std::vector<float> kept_logits_;  // [top_k] theirs
  std::vector<float> weights_;      // exp((logit - max) / temperature), of all or of these
  Ranking ranking_;
};

}  // namespace jiffy
