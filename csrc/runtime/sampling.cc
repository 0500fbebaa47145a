#include "runtime/sampling.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "base/splitmix.h"

namespace jiffy {
namespace {

constexpr float kGreedyBelow = 1e-4f;
constexpr size_t kFirstSorted = 64;  // most nuclei are smaller

void require(bool condition, const char* field, const char* expected, const std::string& found) {
  if (!condition) fail(ErrorKind::kParameter, field, expected, found);
}

double uniform(uint64_t seed, int64_t counter) {  // [0, 1)
  return static_cast<double>(splitmix64(splitmix64(seed) + static_cast<uint64_t>(counter)) >> 11) * 0x1p-53;
}

// The first id at which the running sum of weights passes `target`.
int32_t walk(const std::vector<float>& weights, const int32_t* ids, size_t count, double target) {
  double sum = 0.0;
  int32_t last = 0;
  for (size_t i = 0; i < count; ++i) {
    const int32_t id = ids == nullptr ? static_cast<int32_t>(i) : ids[i];
    const double weight = weights[static_cast<size_t>(id)];
    if (weight == 0.0) continue;
    sum += weight;
    last = id;
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
}

uint64_t completion_seed(uint64_t seed, int64_t index) {
  return index == 0 ? seed : splitmix64(splitmix64(seed) + static_cast<uint64_t>(index));
}

void Sampler::sort_front(size_t count) {
  const auto likelier = [this](int32_t a, int32_t b) {
    const float wa = weights_[static_cast<size_t>(a)], wb = weights_[static_cast<size_t>(b)];
    return wa != wb ? wa > wb : a < b;
  };
  const auto end = ids_.begin() + static_cast<std::ptrdiff_t>(count);
  if (count < ids_.size()) std::nth_element(ids_.begin(), end, ids_.end(), likelier);
  std::sort(ids_.begin(), end, likelier);
}

size_t Sampler::keep(const SamplingParams& p, double total, double& mass) {
  const size_t most = p.top_k > 0 ? std::min(ids_.size(), static_cast<size_t>(p.top_k)) : ids_.size();
  for (size_t sorted = std::min(most, p.top_k > 0 ? most : kFirstSorted);; sorted = std::min(most, sorted * 8)) {
    sort_front(sorted);
    if (p.top_k > 0) {
      total = 0.0;
      for (size_t i = 0; i < sorted; ++i) total += weights_[static_cast<size_t>(ids_[i])];
    }
    mass = 0.0;
    for (size_t i = 0; i < sorted; ++i) {
      const float weight = weights_[static_cast<size_t>(ids_[i])];
      if (i > 0 && (weight < p.min_p || mass >= static_cast<double>(p.top_p) * total)) return i;
      mass += weight;
    }
    if (sorted == most) return most;
  }
}

std::optional<int32_t> Sampler::sample(const float* logits, int64_t vocab_size, const SamplingParams& p,
                                       int64_t n_generated) {
  int64_t best = -1;
  kernels_.argmax({logits, vocab_size, &best});
  if (best < 0) return {};
  if (p.temperature < kGreedyBelow) return static_cast<int32_t>(best);
  const size_t n = static_cast<size_t>(vocab_size);
  weights_.resize(n);
  float sum = 0.0f;
  kernels_.softmax({logits, weights_.data(), vocab_size, logits[best], 1.0f / p.temperature, &sum});
  double total = 0.0;
  for (const float w : weights_) total += w;
  const double u = uniform(p.seed, n_generated);
  if (p.top_k == 0 && p.top_p == 1.0f && p.min_p == 0.0f) return walk(weights_, nullptr, n, u * total);
  ids_.resize(n);
  for (size_t i = 0; i < n; ++i) ids_[i] = static_cast<int32_t>(i);
  double mass = 0.0;
  const size_t kept = keep(p, total, mass);
  return walk(weights_, ids_.data(), kept, u * mass);
}

}  // namespace jiffy
