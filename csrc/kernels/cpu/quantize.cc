// Rows of activations as matmul reads them (quant/activations.h): rounded to bf16, or as int8 in groups; of x, or of
// rms_norm(x), or of
// rotated x.
//
// Loops: tile of rows -> group of cols -> row. The codes that all rows of a tile have in a group lie
// together, so that one call writes one stream and no cache line is written by two lanes (512 rows in turns of two: 4.7
// ns a number and lane; by tiles: 0.3).
#include "kernels/cpu/int8_grid.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/row_values.h"

namespace jiffy::JIFFY_ISA {
namespace {

// A row's numbers [begin, end) rounded to bf16, by pairs.
template <class Value>
void round_cols(const Value& value, int64_t begin, int64_t end, int8_t* data, int64_t stride) {
  for (int64_t i = begin; i < end; i += kLanes) {
    const int64_t left = end - i;
    uint16_t rounded[kLanes];
    store_bf16(rounded, value(i, static_cast<int>(smaller(kLanes, left))));
    const int64_t pairs = smaller(kLanes / 2, (left + 1) / 2);
    for (int64_t j = 0; j < pairs; ++j) __builtin_memcpy(data + (i / 2 + j) * stride, rounded + 2 * j, 4);
  }
}

// One group of row `r` of a tile.
template <class Value>
void quantize_group(const Value& value, const ActivationView& out, const RowTile& tile, int64_t r, int64_t begin) {
  Ints magnitudes = splat(int32_t{0});
  for (int64_t i = begin; i < begin + out.group; i += kLanes) {
    const int n = static_cast<int>(smaller(kLanes, out.cols - i));
    if (n > 0) magnitudes = max(magnitudes, abs_bits(value(i, n)));
  }
  const Int8Grid grid = int8_grid(magnitudes);
  const int64_t step = out.run() == 4 ? tile.rows * 4 : 4;  // longer runs hold all lanes
  Ints total = splat(int32_t{0});
  for (int64_t i = begin; i < begin + out.group; i += kLanes) {
    const int n = static_cast<int>(smaller(kLanes, out.cols - i));
    const Ints q = grid.codes(n > 0 ? value(i, n) : zeros());
    total = add(total, q);
    alignas(16) int8_t bytes[kLanes];
    store_low_bytes(bytes, q);
    int8_t* const to = out.place(tile, r, i);
    for (int j = 0; j < 4; ++j) __builtin_memcpy(to + j * step, bytes + 4 * j, 4);
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
      const int64_t end = smaller(range.end_col, out.cols);
      for (int64_t r = 0; r < tile.rows; ++r) {
        round_cols(values[r], range.first_col, end, out.place(tile, r, 0), tile.rows * 4);
      }
      continue;
    }
    for (int64_t i = range.first_col; i < range.end_col; i += out.group) {
      for (int64_t r = 0; r < tile.rows; ++r) quantize_group(values[r], out, tile, r, i);
    }
  }
}

// The rotated numbers from `begin` on: three stages of sums and differences of whole vectors, no lane meets another.
struct Rotated {
  float x[kRotated];
  int64_t begin = 0;

  void rotate(const float* from) {
    constexpr int kVectors = kRotated / kLanes;
    static_assert(kVectors == 8);
    Floats v[kVectors];
    for (int i = 0; i < kVectors; ++i) v[i] = load(from + i * kLanes);
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
  Floats operator()(int64_t i, int n) const { return load_first(x + (i - begin), n); }
};

}  // namespace

void quantize(const QuantizeArgs& a) {
  quantize_tiles(a.out, a.tiles, [&](int64_t row) { return Plain{a.x + row * a.out.cols}; });
}

void rotate_quantize(const RotateQuantizeArgs& a) {
  Rotated block;
  for (int64_t t = a.tiles.begin; t < a.tiles.end; ++t) {
    const RowTile tile = a.out.tiles().tile(t);
    for (block.begin = a.tiles.first_col; block.begin < a.tiles.end_col; block.begin += kRotated) {
      for (int64_t r = 0; r < tile.rows; ++r) {
        block.rotate(a.x + (tile.first + r) * a.out.cols + block.begin);
        for (int64_t i = 0; i < kRotated; i += a.out.group) quantize_group(block, a.out, tile, r, block.begin + i);
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
