#include "runtime/penalties.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace jiffy {
namespace {

constexpr int32_t kUnseen = -1;

float penalised(float logit, int32_t count, const SamplingParams& p) {
  if (!std::isfinite(logit)) return logit;
  float x = logit > 0.0f ? logit / p.repetition_penalty : logit * p.repetition_penalty;
  if (count > 0) x -= static_cast<float>(count) * p.frequency_penalty + p.presence_penalty;
  constexpr float kLargest = std::numeric_limits<float>::max();
  return std::clamp(x, -kLargest, kLargest);
}

}  // namespace

void Penalties::apply(const LogitRow& logits, const SamplingParams& params, const std::vector<int32_t>& tokens,
                      int64_t n_prompt) {
  touched_.clear();
  if (!params.penalises()) return;
  const bool of_prompt = params.repetition_penalty != 1.0f;
  counts_.resize(std::max(counts_.size(), static_cast<size_t>(logits.count)), kUnseen);
  touched_.reserve(tokens.size());  // so that nothing throws while counts_ is in use
  const size_t prompt = static_cast<size_t>(n_prompt);
  for (size_t i = of_prompt ? 0 : prompt; i < tokens.size(); ++i) {
    const int64_t place = logits.place(tokens[i]);
    if (place < 0) continue;  // a token of the prompt that has an embedding, but no logit
    int32_t& count = counts_[static_cast<size_t>(place)];
    if (count == kUnseen) {
      touched_.push_back({place, logits.values[place]});
      count = 0;
    }
    count += i >= prompt;
  }
  for (const Touched& t : touched_) {
    logits.values[t.place] = penalised(t.logit, counts_[static_cast<size_t>(t.place)], params);
    counts_[static_cast<size_t>(t.place)] = kUnseen;
  }
}

void Penalties::restore(const LogitRow& logits) const {
  for (const Touched& t : touched_) logits.values[t.place] = t.logit;
}

}  // namespace jiffy
