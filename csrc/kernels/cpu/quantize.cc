// Rows of activations as matmul reads them (quant/activations.h): rounded to bf16, or as int8 in groups; of x, of
// rms_norm(x), or of rotated x.
//
// Loops: tile of rows -> group of cols -> row. The codes that all rows of a tile have in a group lie together, so that
// one call writes one stream and no cache line is written by two lanes (512 rows in turns of two: 4.7 ns a number and
// lane; by tiles: 0.3).
#include "kernels/cpu/four_row_groups.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/row_values.h"

namespace jiffy::JIFFY_ISA {
namespace {

// The numbers [begin, end) of a tile's row `r` rounded to bf16, by pairs.
template <class Value>
void round_cols(Value& value, const ActivationView& out, const RowTile& tile, int64_t r, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = static_cast<int>(smaller(kLanes, end - i));
    uint16_t rounded[kLanes];
    store_bf16(rounded, value(i, n));
    int8_t* const to = out.place(tile, r, 2 * i);
    if (out.wide_runs && n == kLanes) {
      __builtin_memcpy(to, rounded, sizeof(rounded));
      continue;
    }
    const int64_t step = out.wide_runs ? 4 : tile.rows * 4;
    for (int64_t j = 0; j < (n + 1) / 2; ++j) __builtin_memcpy(to + j * step, rounded + 2 * j, 4);
  }
}

// Four rows from `row` on, the columns [begin, begin + 128).
template <class Value>
void round_four(Value* values, const DwordRows& to, int64_t row, int64_t begin) {
  for (int r = 0; r < kFourRows; ++r) values[row + r].prefetch(begin + kColsTogether);
  for (int64_t i = begin; i < begin + kColsTogether; i += 2 * kLanes) {
    Codes line[kFourRows];
    for (int r = 0; r < kFourRows; ++r) {
      line[r] = pack_bf16(values[row + r](i, kLanes), values[row + r](i + kLanes, kLanes));
    }
    store_lines(to, row, i / 2, kPairOrder, line);
  }
}

template <class Value>
void round_tile(Value* values, const ActivationView& out, const RowTile& tile, const TileRange& range) {
  const int64_t end = smaller(range.end_col, out.cols);
  int64_t i = range.first_col;
  if (!out.wide_runs && tile.rows >= kFourRows) {
    const DwordRows to{out.place(tile, 0, 0), tile.rows};
    for (; i + kColsTogether <= end; i += kColsTogether) {
      by_fours(tile.rows, [&](int64_t row) { round_four(values, to, row, i); });
    }
  }
  for (int64_t r = 0; r < tile.rows; ++r) round_cols(values[r], out, tile, r, i, end);
}

// The groups of a tile that begin in [begin, end); values[r] gives the numbers of its row `r`.
template <class Value>
void quantize_rows(Value (&values)[kMatrixTileRows], const TileGroups& t, int64_t begin, int64_t end) {
  RowGrid powers[kMatrixTileRows];
  for (int64_t r = 0; t.out.has_row_scale() && r < t.rows; ++r) {
    powers[r] = choose_powers(values[r], t, r, begin, end);
  }
  int64_t i = quantize_by_fours(values, powers, t, begin, end);
  for (int64_t index = i / t.group; i < end; i += t.group, ++index) {
    const bool whole = i + t.group <= t.cols;
    for (int64_t r = 0; r < t.rows; ++r) {
      const RowGroup at{r, index, i};
      whole ? quantize_group<true>(values[r], powers[r], t, at) : quantize_group<false>(values[r], powers[r], t, at);
    }
  }
}

// value_of(row) gives the numbers of a row.
template <class ValueOf>
void quantize_tiles(const ActivationView& out, const TileRange& range, ValueOf&& value_of) {
  for (int64_t t = range.begin; t < range.end; ++t) {
    const RowTile tile = out.tiles().tile(t);
    using Value = decltype(value_of(tile.first));
    Value values[kMatrixTileRows];
    for (int64_t r = 0; r < tile.rows; ++r) values[r] = value_of(tile.first + r);
    if (out.bits == 16) {
      round_tile(values, out, tile, range);
    } else {
      quantize_rows(values, TileGroups(out, tile), range.first_col, range.end_col);
    }
  }
}

}  // namespace

void quantize(const QuantizeArgs& a) {
  quantize_tiles(a.out, a.tiles, [&](int64_t row) { return Plain{a.x + row * a.out.cols}; });
}

void rotate_quantize(const RotateQuantizeArgs& a) {
  quantize_tiles(a.out, a.tiles, [&](int64_t row) { return Rotated(a.x + row * a.out.cols); });
}

void rms_norm_quantize(const RmsNormQuantizeArgs& a) {
  quantize_tiles(a.out, a.tiles, [&](int64_t row) {
    const float* x = a.x + row * a.out.cols;
    return Normalised{x, a.weight, splat(inverse_rms(x, a.out.cols, a.eps))};
  });
}

}  // namespace jiffy::JIFFY_ISA
