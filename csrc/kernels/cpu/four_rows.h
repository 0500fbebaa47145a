// Rows that lie interleaved every 4 bytes, stored four at a time: 16 bytes instead of 4 go to a place (rounding to bf16
// on a Zen 4 core: 47 to 16 ns for 128 columns). Included inside no namespace.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {
namespace {

constexpr int kFourRows = 4;

// body(r) for rows from r on, four at a time, some of them twice where their number, at least four, is no multiple.
template <class Body>
inline void by_fours(int64_t rows, Body&& body) {
  for (int64_t r = 0; r < rows; r += kFourRows) body(smaller(r, rows - kFourRows));
}

// Where the dwords of rows go: those of a number lie side by side.
struct DwordRows {
  int8_t* data;
  int64_t rows;

  int8_t* at(int64_t dword, int64_t row) const { return data + 4 * (dword * rows + row); }
};

// The dwords of a line of 16 (simd/avx512.h): `quarter` apart those of the same place in quarters, first[0:4] those of
// the first quarter.
struct DwordOrder {
  int64_t quarter, first[4];
};
constexpr DwordOrder kCodeOrder{1, {0, 4, 8, 12}}, kPairOrder{2, {0, 1, 8, 9}};

// Transposes a line of each of the rows from `row` on and stores its dwords, the first of them as number `first`.
inline void store_lines(const DwordRows& to, int64_t row, int64_t first, const DwordOrder& order,
                        Codes (&line)[kFourRows]) {
  transpose_dwords(line);
  int8_t* const at = to.at(first, row);
  const int64_t step = 4 * to.rows;
  for (int i = 0; i < 4; ++i) store_quarters(at + order.first[i] * step, order.quarter * step, line[i]);
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
