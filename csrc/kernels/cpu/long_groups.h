// Quantised groups of 128 columns, whose numbers stay in registers from where they come from to their codes, four rows
// at a time (a Zen 4 core, ns for 128 columns in L1 or L2: rotated 50 to 21, as they are 31 to 16; in an encoder's
// step, where half of the rows come from the other core, 67 to 33). Included inside no namespace.
#pragma once

#include "kernels/cpu/four_rows.h"
#include "kernels/cpu/int8_grid.h"

namespace jiffy::JIFFY_ISA {
namespace {

constexpr int64_t kLongGroup = 128;
constexpr int kGroupVectors = kLongGroup / kLanes;

// What a group's rows have beside their codes.
struct GroupOf {
  float* scale;
  int32_t* correction;
  float* scaled_sum;

  GroupOf(const ActivationView& out, int64_t at)
      : scale(out.scale + at), correction(out.correction + at), scaled_sum(out.scaled_sum + at) {}
  void set(int64_t row, float its_scale, int32_t q_sum) const {
    scale[row] = its_scale;
    correction[row] = -8 * q_sum;
    scaled_sum[row] = its_scale * static_cast<float>(q_sum);
  }
};

// A group of 128 columns of one row as two lines of codes; returns its scale.
inline float quantize_vectors(const Floats (&v)[kGroupVectors], Codes& first, Codes& second) {
  Ints m[2] = {abs_bits(v[0]), abs_bits(v[1])};
  for (int k = 2; k < kGroupVectors; ++k) m[k % 2] = max(m[k % 2], abs_bits(v[k]));
  const Int8Grid grid = int8_grid(max(m[0], m[1]));
  Ints q[kGroupVectors];
  for (int k = 0; k < kGroupVectors; ++k) q[k] = round_to_ints(mul(v[k], grid.inverse));
  first = pack_codes(q[0], q[1], q[2], q[3]);
  second = pack_codes(q[4], q[5], q[6], q[7]);
  return grid.scale;
}

// The group of 128 columns from `begin` on of the four rows from `row` on; values(row, begin, v) gives a row's numbers.
template <class Values>
inline void quantize_four(const Values& values, const DwordRows& to, const GroupOf& group, int64_t row, int64_t begin) {
  Codes line[2][kFourRows];
  float scale[kFourRows];
#pragma GCC unroll 4
  for (int i = 0; i < kFourRows; ++i) {
    Floats v[kGroupVectors];
    values(row + i, begin, v);
    scale[i] = quantize_vectors(v, line[0][i], line[1][i]);
  }
  Ints sums = splat(int32_t{0});
  for (int half = 0; half < 2; ++half) {
    store_lines(to, row, begin / 4 + 16 * half, kCodeOrder, line[half]);
    for (const Codes& c : line[half]) sums = add_four_bytes(sums, c);
  }
  int32_t q_sum[kFourRows];
  store_sum_of_quarters(q_sum, sums);
  for (int i = 0; i < kFourRows; ++i) group.set(row + i, scale[i], q_sum[i]);
}

// Fewer rows of a tile are quantised one by one, with the same bits.
inline bool in_long_groups(const ActivationView& out, const RowTile& tile) {
  return out.group == kLongGroup && !out.wide_runs && tile.rows >= kFourRows;
}

// The groups of 128 in the columns [begin, end) of a tile.
template <class Values>
inline void quantize_long_groups(const Values& values, const ActivationView& out, const RowTile& tile, int64_t begin,
                                 int64_t end) {
  const DwordRows to{out.place(tile, 0, 0), tile.rows};
  const int64_t groups = out.groups();
  for (int64_t i = begin; i < end; i += kLongGroup) {
    const GroupOf group(out, tile.first * groups + i / kLongGroup * tile.rows);
    by_fours(tile.rows, [&](int64_t row) { quantize_four(values, to, group, row, i); });
  }
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
