// How rows of activations are stored: as f32, or quantised, which is how a matmul with bf16 or integer weights reads
// them.
//
// Quantised rows are cut into tiles of at most 12, as even as possible, and a tile is stored with its rows interleaved
// every 4 bytes, so that a kernel walks one stream, finds each row's next 4 bytes at a constant distance, and
// broadcasts them at once. Where a CPU multiplies whole matrices (Kernels::matrix_tiles), tiles of bf16 rows and of
// many q8 rows have up to 16 of them, interleaved every 64 bytes (groups of 32: every 32), which is what such an
// instruction takes in; the last run of bf16 may be shorter.
//
//   bf16   data         bf16   [tile][cols_padded / 2][rows of the tile][2]   x, to nearest even
//
//   q8     data         int8   [tile][cols_padded / 4][rows of the tile][4]   q = round(x / scale), clamped to +-127
//          scale        f32    [tile][n_groups][rows of the tile]             max|x| / 127 over the group
//          correction   int32  [tile][n_groups][rows of the tile]             -8 * sum(q): what biased 4-bit codes add
//                                                                             too much
//          scaled_sum   f32    [tile][n_groups][rows of the tile]             scale * sum(q): multiplies a weight
//                                                                             group's offset
//
// In groups of 32 a multiplication for each group's scale costs as much as a quarter of its products on the same pipes.
// Rows for symmetric i4 therefore have one scale each, and their groups powers of two, which an integer addition
// multiplies with (`RowFormat::powers`):
//
//          row_scale    f32    [rows]                                         2^-20 * max|x| / 127 over the row
//          exponent     int32  [tile][n_groups][rows of the tile]             e << 23 in the place of `scale`; x is
//                                                                             row_scale * 2^e * q, 0 <= e <= 20
//
// e is the least for which the group fits into +-127, and never negative: the bits of a weight group's scale may be
// those of zero.
#pragma once

#include <cstdint>
#include <string>

#include "quant/format.h"

namespace jiffy {

inline constexpr int kMaxTileRows = 12;  // 12 int32 and 12 f32 accumulators of 16 lanes leave 8 of 32 zmm registers
inline constexpr int kMatrixTileRows = 16;

struct RowTile {
  int64_t first, rows;
};

// How rows are cut into tiles of at most `most`; the last tile has as many as any.
struct RowTiles {
  int64_t rows;
  int64_t most = kMaxTileRows;

  constexpr int64_t count() const { return (rows + most - 1) / most; }
  constexpr int64_t begin(int64_t tile) const { return rows * tile / count(); }
  constexpr RowTile tile(int64_t i) const { return {begin(i), begin(i + 1) - begin(i)}; }
  constexpr RowTile of(int64_t row) const { return tile(((row + 1) * count() - 1) / rows); }
};

struct RowFormat {
  int bits = 32;        // 32 (f32), 16 (bf16) or 8 (q8)
  int64_t group = 1;    // cols that padding keeps whole: one f32, a pair of bf16, or those of q8 that share a scale
  bool powers = false;  // q8: a row has one scale, and its groups powers of two

  constexpr bool quantized() const { return bits < 32; }
  constexpr bool valid() const {
    if (bits == 8) return group == 32 || (!powers && (group == 64 || group == 128));
    return !powers && ((bits == 16 && group == 2) || (bits == 32 && group == 1));
  }
  constexpr bool operator==(const RowFormat&) const = default;
  std::string name() const;  // "f32", "bf16", "q8(32)", "q8(32, powers)"
};

// The rows that a matmul with such weights reads. Symmetric i4 rounds weights so much that powers add nothing to speak
// of; what holds them better (i4a, i8g32) would lose a third of what it has.
constexpr RowFormat activation_format(const WeightFormat& f) {
  return {f.quantized() ? 8 : f.bits, f.group, f.bits == 4 && f.group == 32 && f.offset == Offset::kNone};
}

struct ActivationView {
  int8_t* data = nullptr;  // bytes, whatever they hold
  float* scale = nullptr;
  int32_t* exponent = nullptr;  // where `scale` is
  int32_t* correction = nullptr;
  float* scaled_sum = nullptr;
  float* row_scale = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;  // as in the float source; storage is padded to whole groups with zeros
  int bits = 0;      // 16 or 8
  int64_t group = 0;
  bool wide_runs = false;  // for instructions that multiply matrices

  bool has_row_scale() const { return row_scale != nullptr; }
  RowTiles tiles() const { return {rows, wide_runs ? kMatrixTileRows : kMaxTileRows}; }
  int64_t run() const { return !wide_runs ? 4 : bits == 8 && group < 64 ? group : 64; }  // bytes that lie together
  // Byte `at` of the data of a tile's row `r`.
  int8_t* place(const RowTile& tile, int64_t r, int64_t at) const {
    const int64_t begin = at / run() * run(), left = row_bytes() - begin, here = left < run() ? left : run();
    return data + tile.first * row_bytes() + begin * tile.rows + r * here + at - begin;
  }
  int64_t groups() const { return (cols + group - 1) / group; }
  int64_t padded() const { return groups() * group; }
  int64_t row_bytes() const { return padded() * bits / 8; }  // of data
};

// Copies the rows from `first` on of `from` to all rows of `to`, whatever tiles they lie in.
void copy_rows(const ActivationView& from, int64_t first, const ActivationView& to);

// Bytes of one row in all arrays together; a view of `rows` rows takes rows * this.
constexpr int64_t activation_row_bytes(int64_t cols, const RowFormat& format) {
  const int64_t groups = (cols + format.group - 1) / format.group;
  return groups * format.group * format.bits / 8 + (format.bits == 8 ? groups * 12 : 0) + (format.powers ? 4 : 0);
}

// Lays the arrays of quantised rows out in `memory`: the 4-byte ones first, so that each is aligned.
inline ActivationView activation_view(void* memory, int64_t rows, int64_t cols, const RowFormat& format,
                                      bool wide_runs = false) {
  const int64_t groups = format.bits == 8 ? (cols + format.group - 1) / format.group : 0;
  ActivationView view{.rows = rows, .cols = cols, .bits = format.bits, .group = format.group, .wide_runs = wide_runs};
  uint8_t* at = static_cast<uint8_t*>(memory);
  const auto take = [&]<class T>(T*& array, int64_t count) {
    array = reinterpret_cast<T*>(at);
    at += count * static_cast<int64_t>(sizeof(T));
  };
  if (format.powers) take(view.row_scale, rows);
  view.exponent = reinterpret_cast<int32_t*>(at);
  take(view.scale, rows * groups);
  take(view.scaled_sum, rows * groups);
  take(view.correction, rows * groups);
  take(view.data, 0);
  return view;
}

}  // namespace jiffy
