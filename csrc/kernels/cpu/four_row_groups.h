// Quantised groups of 32 and of 128, 128 columns of four rows at a time: the numbers stay in registers from where they
// come from to their codes (a Zen 4 core, ns for a row's 128 columns in L1 or L2: rotated 50 to 21, as they are 31 to
// 16; in an encoder's step, where half of the rows come from the other core, 67 to 33). The codes are those of
// row_groups.h. Included inside no namespace.
#pragma once

#include "kernels/cpu/four_rows.h"
#include "kernels/cpu/row_groups.h"
#include "kernels/cpu/row_values.h"

namespace jiffy::JIFFY_ISA {
namespace {

inline bool in_four_rows(const TileGroups& t) {
  return !t.out.wide_runs && t.rows >= kFourRows && (t.group == 32 || t.group == kColsTogether);
}

// 128 columns of four rows of a tile: codes, and what sums of them are stored with.
struct FourRows {
  const TileGroups& t;
  int64_t row, begin;
  Codes line[2][kFourRows];  // 64 columns each

  FourRows(const TileGroups& t, int64_t row, int64_t begin) : t(t), row(row), begin(begin) {}

  void pack(int i, const Ints (&q)[kGroupVectors]) {
    line[0][i] = pack_codes(q[0], q[1], q[2], q[3]);
    line[1][i] = pack_codes(q[4], q[5], q[6], q[7]);
  }
  // Then the lines hold each the dwords of the same 16 columns of all rows.
  void store_codes() {
    const DwordRows to{t.data, t.rows};
    for (int half = 0; half < 2; ++half) store_lines(to, row, begin / 4 + 16 * half, kCodeOrder, line[half]);
  }
  // The sums of group `index`, the lines [first, end) of the eight; scale[i]: of row `row` + i.
  void store_sums(int64_t index, int first, int end, const float (&scale)[kFourRows]) const {
    Ints sums = splat(int32_t{0});
    for (int k = first; k < end; ++k) sums = add_four_bytes(sums, line[k / 4][k % 4]);
    int32_t q_sum[kFourRows];
    store_sum_of_quarters(q_sum, sums);
    for (int i = 0; i < kFourRows; ++i) t.set_sum(t.place(index, row + i), scale[i], q_sum[i]);
  }
};

// Groups of 128.
template <class Value>
inline void quantize_four(const Value* values, FourRows four) {
  const int64_t index = four.begin / kColsTogether;
  float scale[kFourRows];
#pragma GCC unroll 4
  for (int i = 0; i < kFourRows; ++i) {
    Floats v[kGroupVectors];
    read_group(values[four.row + i], four.begin, v);
    Ints m[2] = {abs_bits(v[0]), abs_bits(v[1])};
    for (int k = 2; k < kGroupVectors; ++k) m[k % 2] = max(m[k % 2], abs_bits(v[k]));
    const Int8Grid grid = int8_grid(max_lane(max(m[0], m[1])));
    Ints q[kGroupVectors];
    for (int k = 0; k < kGroupVectors; ++k) q[k] = round_to_ints(mul(v[k], grid.inverse));
    four.pack(i, q);
    four.t.out.scale[four.t.place(index, four.row + i)] = scale[i] = grid.scale;
  }
  four.store_codes();
  four.store_sums(index, 0, kGroupVectors, scale);
}

// Groups of 32, whose exponents are known.
template <class Value>
inline void quantize_four(const Value* values, const RowGrid* powers, FourRows four) {
  constexpr int kGroups = kGroupVectors / 2;
  const int64_t index = four.begin / 32;
  float scale[kGroups][kFourRows];
#pragma GCC unroll 4
  for (int i = 0; i < kFourRows; ++i) {
    Floats v[kGroupVectors];
    read_group(values[four.row + i], four.begin, v);
    Ints q[kGroupVectors];
    for (int g = 0; g < kGroups; ++g) {
      const int64_t at = four.t.place(index + g, four.row + i);
      const Int8Grid grid = powers[four.row + i].at(four.t.out.exponent[at]);
      scale[g][i] = grid.scale;
      for (int k = 2 * g; k < 2 * g + 2; ++k) q[k] = round_to_ints(mul(v[k], grid.inverse));
    }
    four.pack(i, q);
  }
  four.store_codes();
  for (int g = 0; g < kGroups; ++g) four.store_sums(index + g, 2 * g, 2 * g + 2, scale[g]);
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
