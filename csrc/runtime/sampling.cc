#include "runtime/sampling.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "base/error.h"
#include "base/splitmix.h"

namespace jiffy {
namespace {

constexpr float kSmallWeight = 32.0f;  // below e^-32 of the largest, a weight is hardly ever drawn

void require(bool condition, const char* field, const char* expected, const std::string& found) {
  if (!condition) fail(ErrorKind::kParameter, field, expected, found);
}

double uniform(uint64_t seed, int64_t counter) {  // [0, 1)
  return static_cast<double>(splitmix64(splitmix64(seed) + static_cast<uint64_t>(counter)) >> 11) * 0x1p-53;
}

// The first number at which the running sum of weights passes `target`.
int32_t walk(const std::vector<float>& weights, double target) {
  double sum = 0.0;
  int32_t last = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] == 0.0f) continue;
    sum += weights[i];
    last = static_cast<int32_t>(i);
    if (sum > target) break;
  }
  return last;
}

}  // namespace

void SamplingParams::validate() const {
  require(max_tokens >= 1 && max_tokens <= INT32_MAX, "max_tokens", "1 to 2147483647", std::to_string(max_tokens));
  require(std::isfinite(temperature) && temperature >= 0.0f, "temperature", "a number of at least 0",
          std::to_string(temperature));
  require(top_k >= 0, "top_k", "at least 0", std::to_string(top_k));
  require(top_p > 0.0f && top_p <= 1.0f, "top_p", "above 0, at most 1", std::to_string(top_p));
  require(min_p >= 0.0f && min_p <= 1.0f, "min_p", "0 to 1", std::to_string(min_p));
  require(std::isfinite(repetition_penalty) && repetition_penalty > 0.0f, "repetition_penalty", "a number above 0",
          std::to_string(repetition_penalty));
  require(presence_penalty >= -2.0f && presence_penalty <= 2.0f, "presence_penalty", "-2 to 2",
          std::to_string(presence_penalty));
  require(frequency_penalty >= -2.0f && frequency_penalty <= 2.0f, "frequency_penalty", "-2 to 2",
          std::to_string(frequency_penalty));
  require(logprobs >= -1 && logprobs <= kMostLogprobs, "logprobs", "-1 to 20", std::to_string(logprobs));
  constraints.validate();
  beams.validate();
  if (!searches()) return;
  require(greedy(), "temperature", "0 beside beams", std::to_string(temperature));
  require(!penalises(), "repetition_penalty", "no penalties beside beams", "some");
  require(logprobs < 0, "logprobs", "none beside beams", std::to_string(logprobs));
}

uint64_t completion_seed(uint64_t seed, int64_t index) {
  return index == 0 ? seed : splitmix64(splitmix64(seed) + static_cast<uint64_t>(index));
}

// The top_k likeliest, by id. As many blocks of logits as they are have a maximum that reaches `least`, so all of them
// do.
void Sampler::take_top(const float* logits, int64_t vocab_size, size_t count) {
  float least = -std::numeric_limits<float>::max();
  if (count <= maxima_.size()) {
    kept_logits_ = maxima_;
    const auto last = kept_logits_.begin() + static_cast<std::ptrdiff_t>(count) - 1;
    std::nth_element(kept_logits_.begin(), last, kept_logits_.end(), std::greater<>());
    least = *last;
  }
  ids_.clear();
  for (size_t block = 0; block < maxima_.size(); ++block) {
    if (maxima_[block] < least) continue;
    const int64_t begin = static_cast<int64_t>(block) * kMaxBlock;
    for (int64_t id = begin; id < std::min(begin + kMaxBlock, vocab_size); ++id) {
      if (logits[id] >= least) ids_.push_back(static_cast<int32_t>(id));
    }
  }
  if (count < ids_.size()) {
    std::nth_element(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(count), ids_.end(),
                     [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
    ids_.resize(count);
    std::sort(ids_.begin(), ids_.end());
  }
  kept_logits_.clear();
  for (const int32_t id : ids_) kept_logits_.push_back(logits[id]);
}

// The number of one of `logits`, of which the largest is `max`.
int32_t Sampler::draw(const float* logits, int64_t count, float max, const SamplingParams& p, double u) {
  weights_.resize(static_cast<size_t>(count));
  double total = 0.0;
  kernels_.softmax({logits, weights_.data(), count, max, 1.0f / p.temperature, &total});
  if (p.keeps_all()) return walk(weights_, u * total);
  if (p.min_p > 0.0f) {
    for (float& w : weights_) w = w < p.min_p ? 0.0f : w;
  }
  ranking_.read(logits, weights_.data(), count, kSmallWeight * p.temperature);
  const double most = std::numeric_limits<double>::infinity();
  const double limit = p.top_p < 1.0f ? std::nextafter(static_cast<double>(p.top_p) * total, 0.0) : most;
  return ranking_.first_above(u * ranking_.first_above(limit).sum).number;
}

std::optional<int32_t> Sampler::sample(const float* logits, int64_t vocab_size, const SamplingParams& p,
                                       int64_t n_generated) {
  const bool few = p.top_k > 0 && !p.greedy();
  if (few) maxima_.resize(static_cast<size_t>((vocab_size + kMaxBlock - 1) / kMaxBlock));
  int64_t best = -1;
  kernels_.argmax({logits, vocab_size, &best, few ? maxima_.data() : nullptr});
  if (best < 0) return {};
  if (p.greedy()) return static_cast<int32_t>(best);
  const double u = uniform(p.seed, n_generated);
  if (!few) return draw(logits, vocab_size, logits[best], p, u);
  take_top(logits, vocab_size, static_cast<size_t>(std::min(p.top_k, vocab_size)));
  const int64_t count = static_cast<int64_t>(ids_.size());
  return ids_[static_cast<size_t>(draw(kept_logits_.data(), count, logits[best], p, u))];
}

}  // namespace jiffy
