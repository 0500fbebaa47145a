// Rows of activations as matmul reads them (quant/activations.h): rounded to bf16, or as int8 in groups; of x, of
// rms_norm(x), or of rotated x.
//
// Loops: tile of rows -> group of cols -> row. The codes that all rows of a tile have in a group lie together, so that
// one call writes one stream and no cache line is written by two lanes (512 rows in turns of two: 4.7 ns a number and
// lane; by tiles: 0.3).
#include "kernels/cpu/int8_grid.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/long_groups.h"
#include "kernels/cpu/row_values.h"

namespace jiffy::JIFFY_ISA {
namespace {

// The numbers [begin, end) of a tile's row `r` rounded to bf16, by pairs.
template <class Value>
void round_cols(const Value& value, const ActivationView& out, const RowTile& tile, int64_t r, int64_t begin,
                int64_t end) {
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
void round_four(const Value* values, const DwordRows& to, int64_t row, int64_t begin) {
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
void round_tile(const Value* values, const ActivationView& out, const RowTile& tile, const TileRange& range) {
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

// The numbers of a tile's rows, by whole groups of 128.
template <class Value>
struct Groups {
  const Value* values;
  void operator()(int64_t row, int64_t begin, Floats (&v)[kGroupVectors]) const {
    values[row].prefetch(begin + kLongGroup);
    for (int k = 0; k < kGroupVectors; ++k) v[k] = values[row](begin + k * kLanes, kLanes);
  }
};

// Where the codes of a group's row go, 16 at a time.
struct CodesInRuns {
  int8_t* to;
  int64_t run, rows;
  int64_t left;  // of the run

  CodesInRuns(const ActivationView& out, const RowTile& tile, int64_t r, int64_t begin)
      : to(out.place(tile, r, begin)), run(out.run()), rows(tile.rows), left(run) {}

  void put(Ints codes) {
    if (run == 4) {
      alignas(16) int8_t bytes[kLanes];
      store_low_bytes(bytes, codes);
      for (int j = 0; j < 4; ++j, to += 4 * rows) __builtin_memcpy(to, bytes + 4 * j, 4);
      return;
    }
    store_low_bytes(to, codes);
    left -= kLanes;
    to += left > 0 ? kLanes : kLanes + run * (rows - 1);
    left = left > 0 ? left : run;
  }
};

// One group of row `r` of a tile; whole: no lane of it is padding.
template <bool kWhole, class Value>
void quantize_group(const Value& value, const ActivationView& out, const RowTile& tile, int64_t r, int64_t begin) {
  const int64_t end = kWhole ? begin + out.group : out.cols;
  const auto lanes = [=](int64_t i) { return kWhole ? kLanes : static_cast<int>(smaller(kLanes, end - i)); };
  Ints magnitudes = splat(int32_t{0});
  for (int64_t i = begin; i < end; i += kLanes) {
    magnitudes = max(magnitudes, abs_bits(value(i, lanes(i))));
  }
  const Int8Grid grid = int8_grid(magnitudes);
  CodesInRuns codes(out, tile, r, begin);
  Ints total = splat(int32_t{0});
  for (int64_t i = begin; i < end; i += kLanes) {
    const Ints q = grid.codes(value(i, lanes(i)));
    total = add(total, q);
    codes.put(q);
  }
  for (int64_t i = (end + kLanes - 1) / kLanes * kLanes; i < begin + out.group; i += kLanes) {
    codes.put(splat(int32_t{0}));
  }
  const int32_t q_sum = sum(total);
  const int64_t at = tile.first * out.groups() + begin / out.group * tile.rows + r;
  out.scale[at] = grid.scale;
  out.correction[at] = -8 * q_sum;
  out.scaled_sum[at] = grid.scale * static_cast<float>(q_sum);
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
      continue;
    }
    int64_t i = range.first_col;
    if (in_long_groups(out, tile)) {
      const int64_t end = smaller(range.end_col, out.cols / kLongGroup * kLongGroup);
      quantize_long_groups(Groups<Value>{values}, out, tile, i, end);
      i = end;
    }
    for (; i < range.end_col; i += out.group) {
      const bool whole = i + out.group <= out.cols;
      for (int64_t r = 0; r < tile.rows; ++r) {
        whole ? quantize_group<true>(values[r], out, tile, r, i) : quantize_group<false>(values[r], out, tile, r, i);
      }
    }
  }
}

// Three stages of sums and differences of whole vectors, no lane meets another.
void hadamard(Floats (&v)[kGroupVectors]) {
  static_assert(kRotated == kLongGroup && kGroupVectors == 8);
#pragma GCC unroll 3
  for (int half = 1; half < kGroupVectors; half *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kGroupVectors; ++i) {
      if ((i & half) != 0) continue;
      const Floats a = v[i], b = v[i + half];
      v[i] = add(a, b);
      v[i + half] = sub(a, b);
    }
  }
}

// The rotated numbers from `begin` on.
struct Rotated {
  float x[kRotated];
  int64_t begin = 0;

  void rotate(const float* from) {
    Floats v[kGroupVectors];
    for (int i = 0; i < kGroupVectors; ++i) v[i] = load(from + i * kLanes);
    hadamard(v);
    for (int i = 0; i < kGroupVectors; ++i) store(x + i * kLanes, v[i]);
  }
  Floats operator()(int64_t i, int n) const { return load_first(x + (i - begin), n); }
};

// The rotation in registers.
struct RotatedGroups {
  const float* x;
  int64_t cols;

  void operator()(int64_t row, int64_t begin, Floats (&v)[kGroupVectors]) const {
    const Plain from{x + row * cols};
    from.prefetch(begin + kLongGroup);
    for (int k = 0; k < kGroupVectors; ++k) v[k] = from(begin + k * kLanes, kLanes);
    hadamard(v);
  }
};

}  // namespace

void quantize(const QuantizeArgs& a) {
  quantize_tiles(a.out, a.tiles, [&](int64_t row) { return Plain{a.x + row * a.out.cols}; });
}

void rotate_quantize(const RotateQuantizeArgs& a) {
  Rotated block;
  for (int64_t t = a.tiles.begin; t < a.tiles.end; ++t) {
    const RowTile tile = a.out.tiles().tile(t);
    const float* const x = a.x + tile.first * a.out.cols;
    if (in_long_groups(a.out, tile)) {
      quantize_long_groups(RotatedGroups{x, a.out.cols}, a.out, tile, a.tiles.first_col, a.tiles.end_col);
      continue;
    }
    for (block.begin = a.tiles.first_col; block.begin < a.tiles.end_col; block.begin += kRotated) {
      for (int64_t r = 0; r < tile.rows; ++r) {
        block.rotate(x + r * a.out.cols + block.begin);
        for (int64_t i = 0; i < kRotated; i += a.out.group)
          quantize_group<true>(block, a.out, tile, r, block.begin + i);
      }
    }
  }
}

void rms_norm_quantize(const RmsNormQuantizeArgs& a) {
  quantize_tiles(a.out, a.tiles, [&](int64_t row) {
    const float* x = a.x + row * a.out.cols;
    return Normalised{x, a.weight, splat(inverse_rms(x, a.out.cols, a.eps))};
  });
}

}  // namespace jiffy::JIFFY_ISA
