// Tokens that a sequence has already, made less likely (or more).
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/logit_row.h"
#include "runtime/sampling.h"

namespace jiffy {

// For each token of the sequence, in this order:
//   repetition_penalty r (prompt and generated; Keskar et al. 2019, CTRL): x / r where x > 0, else x * r
//   frequency_penalty f, presence_penalty p (generated; as in OpenAI's API): x - count * f - p
// Only these logits are touched; one that would be no float any more becomes the largest or smallest.
class Penalties {
 public:
  // tokens: the sequence's, of which the first n_prompt were given.
  void apply(const LogitRow& logits, const SamplingParams& params, const std::vector<int32_t>& tokens,
             int64_t n_prompt);

  // Puts the logits back that the last apply() has changed.
  void restore(const LogitRow& logits) const;

 private:
  struct Touched {
    int64_t place;
    float logit;  // as it was
  };
  std::vector<Touched> touched_;
  std::vector<int32_t> counts_;  // by place: how often a token was generated; kUnseen between calls
};

}  // namespace jiffy
