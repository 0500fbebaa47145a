// What the parts of the attention kernel share: the state of up to 16 rows, and a tile of positions. Included inside no
// namespace.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {
namespace {

// Softmax state of up to 16 rows: lanes are rows.
struct State {
  float* max;  // [kAttentionRows]
  float* sum;  // [kAttentionRows]
  float* acc;  // [kAttentionRows, width]
};

struct Scratch {
  float* q;         // [kAttentionRows, width], already times scale
  float* scores;    // [kAttentionRows, kAttentionTile]
  float* q_scale;   // [kAttentionRows]             int8 keys and values: the rest of the list
  float* p_scale;   // [kAttentionRows]
  int32_t* q_sum;   // [kAttentionRows]
  int8_t* q_codes;  // [kAttentionRows, width]
  int8_t* p_codes;  // [kAttentionRows, kAttentionTile]
  State segment, whole;
  int64_t width;  // padded head_dim
};

// Positions [begin, begin + present) of a sequence, all stored.
struct Tile {
  int64_t begin, present;
};

// `x` for the 16 positions from `position` that the row sees, `rest` for the others.
inline Floats keep_seen(const AttentionArgs& p, int64_t row, int64_t position, Floats x, Floats rest) {
  const int64_t low = p.first[row] - position, high = p.end[row] - position;
  const int n_low = static_cast<int>(low <= 0 ? 0 : smaller(kLanes, low));
  const int n_high = static_cast<int>(high <= 0 ? 0 : smaller(kLanes, high));
  return keep_first(rest, n_low, keep_first(x, n_high, rest));
}

// Runs body<rows>(first row) over all rows, a few at a time: 8 rows fill the 32 registers of AVX-512, 3 those of AVX2.
template <class Body>
void in_row_groups(int64_t rows, Body&& body) {
  constexpr int kMany = kRowsAtOnce == kMaxTileRows ? 8 : 3;
  for (int64_t r = 0; r < rows;) {
    if (rows - r >= kMany) {
      body.template operator()<kMany>(r);
      r += kMany;
    } else if (rows - r >= 3) {
      body.template operator()<3>(r);
      r += 3;
    } else {
      body.template operator()<1>(r);
      r += 1;
    }
  }
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
