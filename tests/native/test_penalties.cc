// Penalties and log probabilities against what their definitions say, in double.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "kernels/cpu/select.h"
#include "runtime/log_softmax.h"
#include "runtime/penalties.h"

namespace jiffy {
namespace {

std::vector<float> random_logits(unsigned seed, size_t n) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, 4.0f);
  std::vector<float> logits(n);
  for (float& x : logits) x = std::round(normal(rng) * 16.0f) / 16.0f;  // some are equal
  return logits;
}

double expected(double x, const std::vector<int32_t>& tokens, size_t n_prompt, int32_t id, const SamplingParams& p) {
  const auto generated = tokens.begin() + static_cast<std::ptrdiff_t>(n_prompt);
  const double count = static_cast<double>(std::count(generated, tokens.end(), id));
  if (std::count(tokens.begin(), tokens.end(), id) > 0) x = x > 0 ? x / p.repetition_penalty : x * p.repetition_penalty;
  return x - count * p.frequency_penalty - (count > 0 ? p.presence_penalty : 0.0f);
}

TEST(penalties_are_as_defined_and_leave_no_trace) {
  Penalties penalties;
  std::mt19937 rng(5);
  constexpr std::array<float, 3> kCombinations[] = {{1, 0, 0},     {1.3f, 0, 0}, {0.5f, 0, 0}, {1, 0.5f, 0},
                                                    {1, 0, 0.25f}, {1, -2, -1},  {2, 2, 2}};
  for (const auto& [repetition, presence, frequency] : kCombinations) {
    const SamplingParams p{
        .repetition_penalty = repetition, .presence_penalty = presence, .frequency_penalty = frequency};
    p.validate();
    for (const size_t n_prompt : {1, 5, 40}) {
      std::vector<int32_t> tokens(40);
      for (int32_t& token : tokens) token = static_cast<int32_t>(rng() % 30);
      tokens[0] = 50;  // has an embedding, but no logit
      const std::vector<float> raw = random_logits(rng(), 50);
      std::vector<float> logits = raw;
      penalties.apply({logits.data(), 50}, p, tokens, static_cast<int64_t>(n_prompt));
      for (int32_t id = 0; id < 50; ++id) {
        const size_t i = static_cast<size_t>(id);
        const double wanted = expected(raw[i], tokens, n_prompt, id, p);
        // A product, a sum and a difference, each rounded: of values up to 100.
        CHECK(std::fabs(logits[i] - wanted) <= 3 * 0x1p-24 * 128);
        if (std::count(tokens.begin(), tokens.end(), id) == 0) CHECK_EQ(logits[i], raw[i]);
      }
      penalties.restore({logits.data(), 50});
      CHECK(logits == raw);
    }
  }
}

TEST(penalised_logits_stay_numbers_and_others_stay_none) {
  Penalties penalties;
  constexpr float kLargest = std::numeric_limits<float>::max();
  const SamplingParams p{.repetition_penalty = 1e-30f};
  const std::vector<float> raw{1e30f, 3.0f, INFINITY, -INFINITY, std::nanf("")};
  std::vector<float> logits = raw;
  penalties.apply({logits.data(), 5}, p, {0, 1, 2, 3, 4}, 5);
  CHECK_EQ(logits[0], kLargest);
  CHECK(std::isfinite(logits[1]));
  CHECK(logits[2] == INFINITY && logits[3] == -INFINITY && std::isnan(logits[4]));
  std::vector<float> negative{-1e30f};
  penalties.apply({negative.data(), 1}, {.repetition_penalty = 1e30f}, {0}, 1);
  CHECK_EQ(negative[0], -kLargest);
}

TEST(log_probabilities_are_right_and_the_same_on_every_instruction_set) {
  for (const size_t n : {1, 15, 300, 5003}) {
    const std::vector<float> logits = random_logits(static_cast<unsigned>(n), n);
    const double largest = *std::max_element(logits.begin(), logits.end());
    double sum = 0.0;
    for (const float x : logits) sum += std::exp(x - largest);
    std::vector<float> first;
    for (const std::string& isa : supported_isas()) {
      LogSoftmax softmax(select_kernels(isa));
      softmax.read(logits.data(), static_cast<int64_t>(n));
      std::vector<float> all;
      for (size_t i = 0; i < n; ++i) {
        const double wanted = logits[i] - largest - std::log(sum);
        all.push_back(softmax.of(static_cast<int64_t>(i)));
        // exp is right to 2 ulp, so the sum's log is to 2 * 2^-23 and a little, of which roundings within blocks, that
        // go both ways, are a part; then one rounding to float.
        CHECK(std::fabs(all.back() - wanted) <= 3 * 0x1p-23 + 0x1p-24 * std::fabs(wanted));
      }
      if (first.empty()) first = all;
      CHECK(all == first);
    }
  }
}

TEST(the_likeliest_are_those_of_a_full_sort) {
  LogSoftmax softmax(select_kernels("auto"));
  for (const size_t n : {1, 7, 20, 2000}) {
    const std::vector<float> logits = random_logits(static_cast<unsigned>(n) + 9, n);
    std::vector<int32_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    softmax.read(logits.data(), static_cast<int64_t>(n));
    for (const int64_t count : {0, 1, 5, 20}) {
      const auto top = softmax.top(count);
      CHECK_EQ(top.size(), std::min(n, static_cast<size_t>(count)));
      for (size_t i = 0; i < top.size(); ++i) {
        CHECK_EQ(top[i].first, order[i]);
        CHECK_EQ(top[i].second, softmax.of(order[i]));
      }
    }
  }
}

TEST(log_probabilities_of_no_numbers_are_none) {
  LogSoftmax softmax(select_kernels("auto"));
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    const std::vector<float> logits{1.0f, bad, 2.0f};
    softmax.read(logits.data(), 3);
    CHECK(std::isnan(softmax.of(0)));
  }
}

void check_refused(const SamplingParams& params, const std::string& field) {
  try {
    params.validate();
    CHECK(!"the parameter was refused");
  } catch (const Error& error) {
    CHECK_EQ(error.kind, ErrorKind::kParameter);
    CHECK_EQ(error.where, field);
  }
}

TEST(bad_penalties_and_logprobs_are_refused_by_name) {
  const float nan = std::nanf("");
  for (const float r : {nan, 0.0f, -1.0f, INFINITY}) check_refused({.repetition_penalty = r}, "repetition_penalty");
  for (const float p : {nan, -2.01f, 2.01f, INFINITY}) {
    check_refused({.presence_penalty = p}, "presence_penalty");
    check_refused({.frequency_penalty = p}, "frequency_penalty");
  }
  for (const int64_t k : {int64_t{-2}, int64_t{21}, INT64_MAX}) check_refused({.logprobs = k}, "logprobs");
  SamplingParams{.presence_penalty = -2.0f, .frequency_penalty = 2.0f, .logprobs = 20}.validate();
}

}  // namespace
}  // namespace jiffy
