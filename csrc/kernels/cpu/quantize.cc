// Rows of activations as matmul reads them (quant/activations.h): rounded to bf16, or as int8 in groups; of x, of
// rms_norm(x), or of rotated x.
//
// Loops: tile of rows -> group of cols -> row. The codes that all rows of a tile have in a group lie together, so that
// one call writes one stream and no cache line is written by two lanes (512 rows in turns of two: 4.7 ns a number and
// lane; by tiles: 0.3).
#include "kernels/cpu/int8_grid.h"
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

// A tile of rows in groups. What a group needs to know is found once: a division takes as long as 8 columns.
struct TileGroups {
  const ActivationView& out;
  int64_t first, rows, cols, group, run;
  int8_t* data;
  int64_t scales;  // where those of the first group lie

  TileGroups(const ActivationView& out, const RowTile& tile)
      : out(out),
        first(tile.first),
        rows(tile.rows),
        cols(out.cols),
        group(out.group),
        run(out.run()),
        data(out.place(tile, 0, 0)),
        scales(tile.first * out.groups()) {}
};

// Group `index` of row `row` of a tile, the columns from `begin` on.
struct RowGroup {
  int64_t row, index, begin;

  int64_t place(const TileGroups& t) const { return t.scales + index * t.rows + row; }
};

// Where the codes of a group go, 16 at a time.
struct CodesInRuns {
  int8_t* to;
  int64_t run, rows;
  int64_t left;  // of the run

  CodesInRuns(const TileGroups& t, const RowGroup& at)
      : to(t.data + at.begin * t.rows + at.row * t.run), run(t.run), rows(t.rows), left(run) {}

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

// body(column, lanes) for the numbers of a group; whole: no lane of it is padding.
template <bool kWhole, class Body>
void each_vector(const TileGroups& t, int64_t begin, Body&& body) {
  const int64_t end = kWhole ? begin + t.group : t.cols;
  for (int64_t i = begin; i < end; i += kLanes) body(i, kWhole ? kLanes : static_cast<int>(smaller(kLanes, end - i)));
}

template <bool kWhole, class Value>
Ints magnitudes(Value& value, const TileGroups& t, int64_t begin) {
  Ints largest = splat(int32_t{0});
  each_vector<kWhole>(t, begin, [&](int64_t i, int n) { largest = max(largest, abs_bits(value(i, n))); });
  return largest;
}

// Stores the codes of a group and what belongs to their sum.
template <bool kWhole, class Value>
void round_group(Value& value, const Int8Grid& grid, const TileGroups& t, const RowGroup& at) {
  CodesInRuns codes(t, at);
  Ints total = splat(int32_t{0});
  int64_t next = at.begin;
  each_vector<kWhole>(t, at.begin, [&](int64_t i, int n) {
    const Ints q = grid.codes(value(i, n));
    total = add(total, q);
    codes.put(q);
    next = i + kLanes;
  });
  for (; !kWhole && next < at.begin + t.group; next += kLanes) codes.put(splat(int32_t{0}));
  const int32_t q_sum = sum(total);
  t.out.correction[at.place(t)] = -8 * q_sum;
  t.out.scaled_sum[at.place(t)] = grid.scale * static_cast<float>(q_sum);
}

// The scale of row `row` of a tile, and the exponents of its groups that begin in [begin, end). All of the row is
// looked at, for any of them.
template <class Value>
RowGrid choose_powers(Value& value, const TileGroups& t, int64_t row, int64_t begin, int64_t end) {
  Ints largest = splat(int32_t{0});
  RowGroup at{row, 0, 0};
  for (; at.begin < t.cols; at.begin += t.group, ++at.index) {
    const bool whole = at.begin + t.group <= t.cols;
    const Ints of_group = whole ? magnitudes<true>(value, t, at.begin) : magnitudes<false>(value, t, at.begin);
    largest = max(largest, of_group);
    if (at.begin >= begin && at.begin < end) t.out.exponent[at.place(t)] = max_lane(of_group);
  }
  const RowGrid grid(max_lane(largest));
  for (at = {row, begin / t.group, begin}; at.begin < end; at.begin += t.group, ++at.index) {
    int32_t& exponent = t.out.exponent[at.place(t)];
    exponent = grid.exponent(exponent);
  }
  if (begin == 0) t.out.row_scale[t.first + row] = grid.scale;
  return grid;
}

template <bool kWhole, class Value>
void quantize_group(Value& value, const RowGrid& powers, const TileGroups& t, const RowGroup& at) {
  if (t.out.has_row_scale()) return round_group<kWhole>(value, powers.at(t.out.exponent[at.place(t)]), t, at);
  const Int8Grid grid = int8_grid(max_lane(magnitudes<kWhole>(value, t, at.begin)));
  t.out.scale[at.place(t)] = grid.scale;
  round_group<kWhole>(value, grid, t, at);
}

// The groups of a tile that begin in [begin, end); values[r] gives the numbers of its row `r`.
template <class Value>
void quantize_rows(Value (&values)[kMatrixTileRows], const TileGroups& t, int64_t begin, int64_t end) {
  RowGrid powers[kMatrixTileRows];
  for (int64_t r = 0; t.out.has_row_scale() && r < t.rows; ++r) {
    powers[r] = choose_powers(values[r], t, r, begin, end);
  }
  for (int64_t i = begin, index = begin / t.group; i < end; i += t.group, ++index) {
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
    if (out.bits == 8) {
      quantize_rows(values, TileGroups(out, tile), range.first_col, range.end_col);
      continue;
    }
    const int64_t end = smaller(range.end_col, out.cols);
    for (int64_t r = 0; r < tile.rows; ++r) round_cols(values[r], out, tile, r, range.first_col, end);
  }
}

// Rotated numbers, by blocks: three stages of sums and differences of whole vectors, no lane meets another.
struct Rotated {
  const float* row = nullptr;
  int64_t block = -1;
  float x[kRotated];

  Rotated() {}
  explicit Rotated(const float* row) : row(row) {}
  Floats operator()(int64_t i, int n) {
    if (i / kRotated != block) rotate(i / kRotated);
    return load_first(x + i % kRotated, n);
  }

 private:
  void rotate(int64_t which) {
    constexpr int kVectors = kRotated / kLanes;
    static_assert(kVectors == 8);
    block = which;
    Floats v[kVectors];
    for (int i = 0; i < kVectors; ++i) v[i] = load(row + block * kRotated + i * kLanes);
    for (int half = 1; half < kVectors; half *= 2) {
      for (int i = 0; i < kVectors; ++i) {
        if ((i & half) != 0) continue;
        const Floats a = v[i], b = v[i + half];
        v[i] = add(a, b);
        v[i + half] = sub(a, b);
      }
    }
    for (int i = 0; i < kVectors; ++i) store(x + i * kLanes, v[i]);
  }
};

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
