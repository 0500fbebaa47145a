// Sums of weights along the order of likelihood, without sorting.
#pragma once

#include <cstdint>
#include <vector>

namespace jiffy {

// Numbers 0..count - 1 in the order of their logits, the largest first, equal ones by number. A place in that order is
// found by the sum of the weights up to it: logits are counted into buckets, and only the bucket that holds the place
// is looked into, in buckets of its own until few are left to sort. So a flat distribution takes as long as a peaked
// one.
class Ranking {
 public:
  struct Place {
    int32_t number;
    double sum;  // of the weights up to this place and with it
  };

  // logits, weights: [count], finite; they must stay while places are asked for. `range`: how far below the largest
  // logit weights matter, which makes the buckets finer, and changes nothing else.
  void read(const float* logits, const float* weights, int64_t count, float range);

  // The first place whose sum is above `limit`, or the last with a weight. Needs weights of which one is not 0.
  Place first_above(double limit);

 private:
  static constexpr int kBuckets = 2048;

  // Falls with the logit, so that a bucket's members are behind those of all buckets before it.
  struct Scale {
    float top = 0.0f, steps = 0.0f;
    int bucket(float logit) const {
      const float at = (top - logit) * steps;
      return at < static_cast<float>(kBuckets - 1) ? static_cast<int>(at) : kBuckets - 1;
    }
  };

  void look_into(int bucket);
  bool narrow(double limit, double& before);
  Place walk(double limit, double sum);

  const float *logits_ = nullptr, *weights_ = nullptr;
  int64_t count_ = 0;
  Scale whole_;                     // over all numbers; steps == 0: they are few
  std::vector<double> whole_sums_;  // [kBuckets]
  std::vector<double> sums_;        // [kBuckets] of members_
  std::vector<int32_t> members_;    // that may hold the place
};

}  // namespace jiffy
