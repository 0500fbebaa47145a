// The sampler against a reference that sorts everything in double.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/splitmix.h"
#include "check.h"
#include "kernels/cpu/select.h"
#include "runtime/sampling.h"

namespace jiffy {
namespace {

constexpr int64_t kProbe = 1 << 16;

// Among equally likely tokens the sampler takes number floor(u * n): so its random number shows, to 2^-16.
struct RandomNumber {
  double low, high;

  RandomNumber(uint64_t seed, int64_t counter) {
    static Sampler sampler(select_kernels("auto"));
    static const std::vector<float> equal(kProbe, 1.0f);
    const auto token = sampler.sample(equal.data(), kProbe, {.temperature = 1.0f, .seed = seed}, counter);
    low = static_cast<double>(token.value_or(-1)) / kProbe;
    high = low + 1.0 / kProbe;
  }
};

struct Candidate {
  int32_t id;
  double weight;
};

// What the parameters leave, likeliest first, and how much the kernel's float exponentials may move a border between
// two tokens: 2 ulp of the exponential, and half an ulp each for the difference, 1 / temperature and their product.
struct Reference {
  std::vector<Candidate> kept;
  double mass = 0.0, tolerance = 0.0;

  Reference(const std::vector<float>& logits, const SamplingParams& p) {
    const double largest = *std::max_element(logits.begin(), logits.end());
    for (size_t i = 0; i < logits.size(); ++i) {
      const double x = std::max(-87.0, (logits[i] - largest) / p.temperature);
      kept.push_back({static_cast<int32_t>(i), std::exp(x)});
      tolerance += (2.0 + 1.5 * std::fabs(x)) * 0x1p-23 * std::exp(x);
    }
    std::stable_sort(kept.begin(), kept.end(), [](auto& a, auto& b) { return a.weight > b.weight; });
    if (p.top_k > 0 && static_cast<size_t>(p.top_k) < kept.size()) kept.resize(static_cast<size_t>(p.top_k));
    double total = 0.0;
    for (const Candidate& c : kept) total += c.weight;
    size_t n = 0;
    while (n < kept.size() && (n == 0 || (mass < p.top_p * total && kept[n].weight >= p.min_p)))
      mass += kept[n++].weight;
    kept.resize(n);
  }

  // Whether `token` is what the random number selects, or would be after a move of the borders by the tolerance.
  bool allows(int32_t token, const RandomNumber& u) const {
    double before = 0.0;
    for (const Candidate& c : kept) {
      if (c.id == token) return before <= u.high * mass + tolerance && before + c.weight >= u.low * mass - tolerance;
      before += c.weight;
    }
    return false;
  }
};

// Whole 64ths: many are equal, and the others so far apart that float and double order them alike.
std::vector<float> random_logits(std::mt19937& rng, size_t n) {
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(n);
  for (float& x : logits) x = std::round(normal(rng) * 64.0f) / 64.0f;
  return logits;
}

std::vector<SamplingParams> combinations() {
  std::vector<SamplingParams> all;
  for (const float temperature : {0.3f, 1.0f, 2.5f}) {
    for (const int64_t top_k : {0, 1, 7, 100, 100000}) {
      for (const float top_p : {0.1f, 0.9f, 0.999f, 1.0f}) {
        for (const float min_p : {0.0f, 0.05f, 1.0f}) {
          all.push_back({.temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p});
        }
      }
    }
  }
  return all;
}

std::string describe(const SamplingParams& p, size_t n) {
  return "temperature " + std::to_string(p.temperature) + " top_k " + std::to_string(p.top_k) + " top_p " +
         std::to_string(p.top_p) + " min_p " + std::to_string(p.min_p) + " of " + std::to_string(n);
}

TEST(sampler_agrees_with_sorting_everything) {
  std::mt19937 rng(3);
  Sampler sampler(select_kernels("auto"));
  for (const size_t n : {1, 2, 17, 259, 5000}) {
    const std::vector<float> logits = random_logits(rng, n);
    for (SamplingParams p : combinations()) {
      Reference reference(logits, p);
      if (p.keeps_all()) {  // the sampler walks these in order of id
        std::sort(reference.kept.begin(), reference.kept.end(), [](auto& a, auto& b) { return a.id < b.id; });
      }
      for (p.seed = 0; p.seed < 8; ++p.seed) {
        const auto token = sampler.sample(logits.data(), static_cast<int64_t>(n), p, 5);
        if (!reference.allows(token.value_or(-1), RandomNumber(p.seed, 5))) {
          check::report_failure(__FILE__, __LINE__, describe(p, n) + ": token " + std::to_string(token.value_or(-1)));
        }
      }
    }
  }
}

// The definition, step by step; the weights and their sum are the kernel's.
int32_t sorted_sample(const Kernels& kernels, const std::vector<float>& logits, const SamplingParams& p,
                      int64_t counter) {
  struct Token {
    int32_t id;
    float logit, weight;
  };
  std::vector<Token> tokens;
  for (const float x : logits) tokens.push_back({static_cast<int32_t>(tokens.size()), x, 0.0f});
  std::stable_sort(tokens.begin(), tokens.end(), [](auto& a, auto& b) { return a.logit > b.logit; });
  const float largest = tokens[0].logit;
  if (p.top_k > 0 && static_cast<size_t>(p.top_k) < tokens.size()) tokens.resize(static_cast<size_t>(p.top_k));
  double total = 0.0;
  for (Token& t : tokens) {
    double sum = 0.0;
    kernels.softmax({&t.logit, &t.weight, 1, largest, 1.0f / p.temperature, &sum});
    total += sum;
  }
  double mass = 0.0;
  size_t kept = 0;
  while (kept < tokens.size() && (kept == 0 || (mass < p.top_p * total && tokens[kept].weight >= p.min_p)))
    mass += tokens[kept++].weight;
  const double u = static_cast<double>(splitmix64(splitmix64(p.seed) + static_cast<uint64_t>(counter)) >> 11) * 0x1p-53;
  double sum = 0.0;
  for (size_t i = 0; i < kept; ++i) {
    if ((sum += tokens[i].weight) > u * mass) return tokens[i].id;
  }
  return tokens[kept - 1].id;
}

TEST(sampler_takes_the_very_token_that_sorting_everything_finds) {
  std::mt19937 rng(5);
  const Kernels& kernels = select_kernels("auto");
  Sampler sampler(kernels);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  for (const size_t n : {1, 40, 64, 130, 5000}) {
    for (const float scale : {1e-4f, 1.0f, 6.0f}) {
      std::vector<float> logits(n);
      for (float& x : logits) x = scale * normal(rng);
      for (size_t i = 0; scale == 1.0f && i < n; ++i) logits[i] = std::round(logits[i] * 4.0f) / 4.0f;
      for (SamplingParams p : combinations()) {
        if (p.keeps_all()) continue;
        for (const int64_t top_k : {p.top_k, static_cast<int64_t>(n)}) {
          p.top_k = top_k;
          p.seed = rng();
          const auto token = sampler.sample(logits.data(), static_cast<int64_t>(n), p, 3);
          if (token != sorted_sample(kernels, logits, p, 3)) {
            check::report_failure(__FILE__, __LINE__, describe(p, n) + " at scale " + std::to_string(scale));
          }
        }
      }
    }
  }
}

TEST(sampler_gives_the_same_on_every_instruction_set) {
  std::mt19937 rng(4);
  std::vector<Sampler> samplers;
  for (const std::string& isa : supported_isas()) samplers.emplace_back(select_kernels(isa));
  for (const size_t n : {1, 15, 16, 1000, 4099}) {
    const std::vector<float> logits = random_logits(rng, n);
    for (SamplingParams p : combinations()) {
      for (p.seed = 0; p.seed < 4; ++p.seed) {
        const auto first = samplers[0].sample(logits.data(), static_cast<int64_t>(n), p, 1);
        for (Sampler& other : samplers) CHECK(other.sample(logits.data(), static_cast<int64_t>(n), p, 1) == first);
      }
    }
  }
}

// Chi-squared over 16 equal bins: with 15 degrees of freedom, 44.3 is passed once in 10,000 trials.
double chi_squared(const std::vector<int>& counts, int draws) {
  double sum = 0.0;
  const double expected = static_cast<double>(draws) / static_cast<double>(counts.size());
  for (const int count : counts) sum += (count - expected) * (count - expected) / expected;
  return sum;
}

TEST(random_numbers_are_even_over_counters_and_over_seeds) {
  Sampler sampler(select_kernels("auto"));
  const std::vector<float> equal(16, 0.0f);
  std::vector<int> by_counter(16), by_seed(16), pairs(256);
  int before = 0;
  for (int i = 0; i < 20000; ++i) {
    const auto along = sampler.sample(equal.data(), 16, {.temperature = 1.0f, .seed = 42}, i);
    const auto across = sampler.sample(equal.data(), 16, {.temperature = 1.0f, .seed = static_cast<uint64_t>(i)}, 0);
    ++by_counter[static_cast<size_t>(along.value_or(0))];
    ++by_seed[static_cast<size_t>(across.value_or(0))];
    ++pairs[static_cast<size_t>(before * 16 + along.value_or(0))];
    before = along.value_or(0);
  }
  for (uint64_t seed = 0; seed < 8; ++seed) {  // one seed's numbers are not another's, later or earlier
    int equal_numbers = 0;
    for (int64_t i = 1; i < 100; ++i) equal_numbers += RandomNumber(seed, i).low == RandomNumber(seed + 1, i - 1).low;
    CHECK(equal_numbers < 3);
  }
  CHECK(chi_squared(by_counter, 20000) < 44.3);
  CHECK(chi_squared(by_seed, 20000) < 44.3);
  CHECK(chi_squared(pairs, 20000) < 346.0);  // 255 degrees of freedom, the same probability
}

TEST(sampled_frequencies_are_the_probabilities) {
  Sampler sampler(select_kernels("auto"));
  const std::vector<float> logits{std::log(1.0f), std::log(2.0f), std::log(5.0f)};
  std::vector<int> counts(3);
  constexpr int kDraws = 40000;
  for (int i = 0; i < kDraws; ++i) {
    const auto token = sampler.sample(logits.data(), 3, {.temperature = 1.0f, .top_k = 3, .seed = 9}, i);
    ++counts[static_cast<size_t>(token.value_or(0))];
  }
  const double probability[] = {1.0 / 8, 2.0 / 8, 5.0 / 8};
  for (size_t i = 0; i < 3; ++i) {
    const double deviation = std::sqrt(kDraws * probability[i] * (1.0 - probability[i]));
    CHECK(std::fabs(counts[i] - kDraws * probability[i]) < 4.0 * deviation);
  }
}

TEST(a_random_number_depends_on_seed_and_count_alone) {
  const std::vector<float> logits(300, 0.5f);
  const SamplingParams mine{.temperature = 0.8f, .top_p = 0.9f, .seed = 7};
  Sampler fresh(select_kernels("auto"));
  std::vector<int32_t> alone;
  for (int64_t i = 0; i < 20; ++i) alone.push_back(fresh.sample(logits.data(), 300, mine, i).value_or(-1));
  Sampler shared(select_kernels("auto"));
  const std::vector<float> longer(5000, 0.1f);
  for (int64_t i = 19; i >= 0; --i) {
    shared.sample(longer.data(), 5000, {.temperature = 1.0f, .top_k = 5, .seed = static_cast<uint64_t>(i)}, i);
    CHECK_EQ(shared.sample(logits.data(), 300, mine, i).value_or(-1), alone[static_cast<size_t>(i)]);
  }
  std::sort(alone.begin(), alone.end());
  CHECK(std::unique(alone.begin(), alone.end()) - alone.begin() > 10);
}

TEST(equal_logits_are_kept_by_lower_id) {
  Sampler sampler(select_kernels("auto"));
  std::vector<float> logits(1000, 1.0f);
  logits[500] = 2.0f;
  std::vector<int> seen(1000);
  for (int64_t i = 0; i < 500; ++i) {
    ++seen[static_cast<size_t>(
        sampler.sample(logits.data(), 1000, {.temperature = 5.0f, .top_k = 3}, i).value_or(999))];
  }
  CHECK(seen[0] > 0 && seen[1] > 0 && seen[500] > 0);
  CHECK_EQ(seen[0] + seen[1] + seen[500], 500);
}

TEST(min_p_of_one_keeps_all_of_the_largest) {
  Sampler sampler(select_kernels("auto"));
  const std::vector<float> logits{1.0f, 3.0f, 2.9f, 3.0f};
  std::vector<int> seen(4);
  for (int64_t i = 0; i < 100; ++i) {
    ++seen[static_cast<size_t>(sampler.sample(logits.data(), 4, {.temperature = 1.0f, .min_p = 1.0f}, i).value_or(0))];
  }
  CHECK(seen[1] > 0 && seen[3] > 0);
  CHECK_EQ(seen[1] + seen[3], 100);
}

TEST(greedy_takes_the_lowest_of_the_largest) {
  for (const std::string& isa : supported_isas()) {
    Sampler sampler(select_kernels(isa));
    std::vector<float> logits(100, -1.0f);
    logits[40] = logits[60] = 3.0f;
    CHECK_EQ(sampler.sample(logits.data(), 100, {}, 0).value_or(-1), 40);
    CHECK_EQ(sampler.sample(logits.data(), 100, {.temperature = 1e-5f, .seed = 3}, 0).value_or(-1), 40);
    CHECK_EQ(sampler.sample(logits.data(), 100, {.temperature = 2.0f, .top_k = 1, .seed = 3}, 0).value_or(-1), 40);
  }
}

TEST(logits_that_are_no_finite_numbers_give_no_token) {
  for (const std::string& isa : supported_isas()) {
    Sampler sampler(select_kernels(isa));
    for (const float bad : {std::nanf(""), -std::nanf(""), INFINITY, -INFINITY}) {
      for (const size_t at : {0, 50, 99}) {
        std::vector<float> logits(100, 1.0f);
        logits[at] = bad;
        CHECK(!sampler.sample(logits.data(), 100, {}, 0));
        CHECK(!sampler.sample(logits.data(), 100, {.temperature = 1.0f, .top_p = 0.9f}, 0));
      }
    }
  }
}

void check_refused(const SamplingParams& params, const std::string& field) {
  CHECK_THROWS(ErrorKind::kParameter, params.validate());
  try {
    params.validate();
  } catch (const Error& error) {
    CHECK_EQ(error.where, field);
  }
}

TEST(bad_parameters_are_refused_by_name) {
  const float nan = std::nanf("");
  for (const float t : {nan, -0.1f, INFINITY}) check_refused({.temperature = t}, "temperature");
  for (const float p : {nan, 0.0f, -1.0f, 1.01f, INFINITY}) check_refused({.top_p = p}, "top_p");
  for (const float p : {nan, -0.01f, 1.01f}) check_refused({.min_p = p}, "min_p");
  for (const int64_t k : {int64_t{-1}, std::numeric_limits<int64_t>::min()}) check_refused({.top_k = k}, "top_k");
  for (const int64_t n : {int64_t{-1}, int64_t{0}, int64_t{1} << 31}) check_refused({.max_tokens = n}, "max_tokens");
  SamplingParams{}.validate();
  SamplingParams{.max_tokens = (int64_t{1} << 31) - 1, .temperature = 3e38f, .top_k = INT64_MAX, .min_p = 1}.validate();
}

}  // namespace
}  // namespace jiffy
