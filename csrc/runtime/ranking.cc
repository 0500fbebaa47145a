#include "runtime/ranking.h"

#include <algorithm>
#include <numeric>

namespace jiffy {
namespace {

constexpr size_t kSorted = 64;  // so few are sorted; more go into buckets

struct Extremes {
  float least, largest;
};

// Lane by lane, which compilers can do in vectors.
Extremes extremes(const float* x, int64_t n) {
  constexpr int64_t kLanes = 16;
  float least[kLanes], largest[kLanes];
  std::fill_n(least, kLanes, x[0]);
  std::fill_n(largest, kLanes, x[0]);
  for (int64_t i = 0; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float v = x[i + lane];
      least[lane] = v < least[lane] ? v : least[lane];
      largest[lane] = v > largest[lane] ? v : largest[lane];
    }
  }
  Extremes all{*std::min_element(least, least + kLanes), *std::max_element(largest, largest + kLanes)};
  for (int64_t i = n / kLanes * kLanes; i < n; ++i) {
    all = {std::min(all.least, x[i]), std::max(all.largest, x[i])};
  }
  return all;
}

// The first bucket with which the running sum, `before` at first, is above `limit`, or the last with a weight; `before`
// becomes the sum of those before it.
int passing_bucket(const std::vector<double>& sums, double limit, double& before) {
  int last = 0;
  double sum = before;
  for (size_t b = 0; b < sums.size(); ++b) {
    if (sums[b] == 0.0) continue;
    last = static_cast<int>(b);
    before = sum;
    sum += sums[b];
    if (sum > limit) break;
  }
  return last;
}

}  // namespace

void Ranking::read(const float* logits, const float* weights, int64_t count, float range) {
  logits_ = logits;
  weights_ = weights;
  count_ = count;
  whole_ = {};
  if (count <= static_cast<int64_t>(kSorted)) return;
  const Extremes all = extremes(logits, count);
  whole_ = {all.largest, static_cast<float>(kBuckets - 1) / std::min(all.largest - all.least, range)};
  whole_sums_.assign(kBuckets, 0.0);
  for (int64_t i = 0; i < count; ++i) whole_sums_[static_cast<size_t>(whole_.bucket(logits[i]))] += weights[i];
}

void Ranking::look_into(int bucket) {
  members_.clear();
  for (int64_t i = 0; i < count_; ++i) {
    if (whole_.bucket(logits_[i]) == bucket) members_.push_back(static_cast<int32_t>(i));
  }
}

// Leaves those members that may hold the place; false if these are as many as before.
bool Ranking::narrow(double limit, double& before) {
  float least = logits_[members_[0]], largest = least;
  for (const int32_t i : members_) {
    least = std::min(least, logits_[i]);
    largest = std::max(largest, logits_[i]);
  }
  const Scale scale{largest, static_cast<float>(kBuckets - 1) / (largest - least)};
  sums_.assign(kBuckets, 0.0);
  for (const int32_t i : members_) sums_[static_cast<size_t>(scale.bucket(logits_[i]))] += weights_[i];
  const int bucket = passing_bucket(sums_, limit, before);
  return std::erase_if(members_, [&](int32_t i) { return scale.bucket(logits_[i]) != bucket; }) > 0;
}

Ranking::Place Ranking::walk(double limit, double sum) {
  const auto likelier = [this](int32_t a, int32_t b) {
    return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b;
  };
  // Many that are left are equal ones, and in order.
  if (!std::is_sorted(members_.begin(), members_.end(), likelier)) {
    std::sort(members_.begin(), members_.end(), likelier);
  }
  Place last{members_[0], sum};
  for (const int32_t i : members_) {
    if (weights_[i] == 0.0f) continue;
    sum += weights_[i];
    last = {i, sum};
    if (sum > limit) break;
  }
  return last;
}

Ranking::Place Ranking::first_above(double limit) {
  double before = 0.0;
  if (whole_.steps == 0.0f) {
    members_.resize(static_cast<size_t>(count_));
    std::iota(members_.begin(), members_.end(), 0);
  } else {
    look_into(passing_bucket(whole_sums_, limit, before));
  }
  while (members_.size() > kSorted && narrow(limit, before)) {
  }
  return walk(limit, before);
}

}  // namespace jiffy
