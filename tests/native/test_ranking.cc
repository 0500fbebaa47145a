// Places in the order of likelihood, against sorting everything. Weights are whole numbers, so that sums are exact.
#include <algorithm>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "check.h"
#include "runtime/ranking.h"

namespace jiffy {
namespace {

using Logits = std::vector<float>;

struct Sorted {
  std::vector<Ranking::Place> places;  // of those with a weight, the likeliest first

  Sorted(const Logits& logits, const std::vector<float>& weights) {
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    double sum = 0.0;
    for (const int32_t i : order) {
      if (weights[static_cast<size_t>(i)] > 0.0f) places.push_back({i, sum += weights[static_cast<size_t>(i)]});
    }
  }

  Ranking::Place first_above(double limit) const {
    const auto passes = [&](const Ranking::Place& p) { return p.sum > limit; };
    const auto found = std::find_if(places.begin(), places.end(), passes);
    return found == places.end() ? places.back() : *found;
  }
};

void check_places(Ranking& ranking, const Logits& logits, const std::vector<float>& weights, float range) {
  const Sorted sorted(logits, weights);
  ranking.read(logits.data(), weights.data(), static_cast<int64_t>(logits.size()), range);
  std::vector<double> limits{0.0, std::numeric_limits<double>::infinity()};
  const size_t step = sorted.places.size() / 50 + 1;
  for (size_t i = 0; i < sorted.places.size(); i += step) {
    for (const double distance : {-0.5, 0.0, 0.5}) limits.push_back(sorted.places[i].sum + distance);
  }
  for (const double limit : limits) {
    const Ranking::Place expected = sorted.first_above(limit), found = ranking.first_above(limit);
    CHECK_EQ(found.number, expected.number);
    CHECK_EQ(found.sum, expected.sum);
  }
}

// Flat, peaked, tied, masked, as far apart as floats are, as close together, and the largest alone far above.
std::vector<Logits> distributions(size_t n, std::mt19937& rng) {
  std::normal_distribution<float> normal(0.0f, 1.0f);
  const auto of = [&](auto&& f) {
    Logits x(n);
    std::generate(x.begin(), x.end(), f);
    return x;
  };
  constexpr float kLargest = std::numeric_limits<float>::max(), kLeast = std::numeric_limits<float>::denorm_min();
  std::vector<Logits> all{of([&] { return normal(rng); }),
                          of([&] { return 5.0f + 1e-6f * normal(rng); }),
                          of([&] { return std::exp(4.0f * normal(rng)); }),
                          of([&] { return std::round(2.0f * normal(rng)); }),
                          of([&] { return 1.0f; }),
                          of([&] { return rng() % 3 == 0 ? normal(rng) : -kLargest; }),
                          of([&] { return rng() % 2 == 0 ? kLargest : -kLargest * static_cast<float>(rng() % 7) / 7; }),
                          of([&] { return kLeast * static_cast<float>(rng() % 5); }),
                          of([&] { return rng() % 2 == 0 ? 0.0f : -0.0f; })};
  all.push_back(all[0]);
  all.back()[n / 2] = 1e9f;
  return all;
}

TEST(ranking_agrees_with_sorting_everything) {
  std::mt19937 rng(11);
  Ranking ranking;
  for (const size_t n : {1, 2, 63, 64, 65, 1000, 20000}) {
    for (const Logits& logits : distributions(n, rng)) {
      for (const bool some_without_weight : {false, true}) {
        std::vector<float> weights(n);
        for (float& w : weights) w = static_cast<float>(rng() % 1000 + 1);
        for (size_t i = 0; some_without_weight && i < n; i += 1 + rng() % 3) weights[i] = 0.0f;
        weights[n - 1] = 1.0f;
        for (const float range : {1e-3f, 32.0f, INFINITY}) check_places(ranking, logits, weights, range);
      }
    }
  }
}

}  // namespace
}  // namespace jiffy
