// Quantised groups, 128 columns of four rows at a time: the numbers stay in registers from where they
// come from to their codes (a Zen 4 core, ns for a row's 128 columns in L1 or L2: rotated 50 to 21, as they are 31 to
// 16; in an encoder's step, where half of the rows come from the other core, 67 to 33). The codes are those of
// row_groups.h. Included inside no namespace.
#pragma once

#include "kernels/cpu/four_rows.h"
#include "kernels/cpu/row_groups.h"
#include "kernels/cpu/row_values.h"

namespace jiffy::JIFFY_ISA {
namespace {

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

// The grid of a group's vectors; `at`: its place. Where rows have scales, its exponent is known.
template <int kVectors>
inline Int8Grid grid_of(const TileGroups& t, const Floats* v, const RowGrid& powers, int64_t at) {
  if (t.out.has_row_scale()) return powers.at(t.out.exponent[at]);
  Ints m[2] = {abs_bits(v[0]), abs_bits(v[1])};
  for (int k = 2; k < kVectors; ++k) m[k % 2] = max(m[k % 2], abs_bits(v[k]));
  const Int8Grid grid = int8_grid(max_lane(max(m[0], m[1])));
  t.out.scale[at] = grid.scale;
  return grid;
}

// kGroups of them.
template <int kGroups, class Value>
inline void quantize_four(const Value* values, const RowGrid* powers, FourRows four) {
  constexpr int kVectors = kGroupVectors / kGroups;
  const int64_t index = four.begin / kColsTogether * kGroups;
  float scale[kGroups][kFourRows];
#pragma GCC unroll 4
  for (int i = 0; i < kFourRows; ++i) {
    Floats v[kGroupVectors];
    read_group(values[four.row + i], four.begin, v);
    Ints q[kGroupVectors];
    for (int g = 0; g < kGroups; ++g) {
      const int64_t at = four.t.place(index + g, four.row + i);
      const Int8Grid grid = grid_of<kVectors>(four.t, v + g * kVectors, powers[four.row + i], at);
      scale[g][i] = grid.scale;
      for (int k = g * kVectors; k < (g + 1) * kVectors; ++k) q[k] = round_to_ints(mul(v[k], grid.inverse));
    }
    four.pack(i, q);
  }
  four.store_codes();
  for (int g = 0; g < kGroups; ++g) four.store_sums(index + g, g * kVectors, (g + 1) * kVectors, scale[g]);
}

// What there is of the columns [begin, end) in whole 128s; returns where they end.
template <class Value>
inline int64_t quantize_by_fours(const Value* values, const RowGrid* powers, const TileGroups& t, int64_t begin,
                                 int64_t end) {
  if (t.out.wide_runs || t.rows < kFourRows) return begin;
  for (; begin + kColsTogether <= smaller(end, t.cols); begin += kColsTogether) {
    by_fours(t.rows, [&](int64_t row) {
      const FourRows four(t, row, begin);
      t.group == 32   ? quantize_four<4>(values, powers, four)
      : t.group == 64 ? quantize_four<2>(values, powers, four)
                      : quantize_four<1>(values, powers, four);
    });
  }
  return begin;
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
