// The cosines or sines of rope: what angle a position is. Made once, in double, for the positions of a context.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/buffer.h"

namespace jiffy {

struct RopeAngles {
  std::vector<double> frequencies;  // [head_dim / 2], radians a position
  double factor = 1.0;              // multiplies the table
  bool sine = false;
  bool one_context = false;  // the frequencies are those of one context alone (NTK-aware scaling)
};

// table[p, i] = factor * cos(p * frequencies[i]), or sin    float [context, head_dim / 2]
class RopeTable {
 public:
  // Throws kParameter for a context out of 1..2^31 - 1, no frequencies or absurdly many, kOutOfMemory.
  RopeTable(RopeAngles angles, int64_t context);

  const RopeAngles& angles() const { return angles_; }
  const float* data() const { return table_.as<float>(); }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return static_cast<int64_t>(angles_.frequencies.size()); }

 private:
  RopeAngles angles_;
  int64_t rows_;
  Buffer table_;
};

}  // namespace jiffy
