// Quantised activations ("q8"): the signed, broadcast operand of every integer matmul.
//
// Rows are cut into tiles of at most 12, as even as possible, and a tile is stored with its rows interleaved every 4
// cols, so that a kernel walks one stream and finds each row's next 4 bytes at a constant distance:
//
//   data        int8   [tile][cols_padded / 4][rows of the tile][4]     q = round(x / scale), clamped to +-127
//   scale       f32    [tile][n_groups][rows of the tile]               max|x| / 127 over the group
//   correction  int32  [tile][n_groups][rows of the tile]               -8 * sum(q): what biased 4-bit codes add too
//   much scaled_sum  f32    [tile][n_groups][rows of the tile]               scale * sum(q): multiplies a weight
//   group's offset
#pragma once

#include <cstdint>

namespace jiffy {

inline constexpr int kMaxTileRows = 12;  // 12 int32 and 12 f32 accumulators of 16 lanes leave 8 of 32 zmm registers

constexpr int64_t n_row_tiles(int64_t rows) { return (rows + kMaxTileRows - 1) / kMaxTileRows; }
constexpr int64_t row_tile_begin(int64_t rows, int64_t tile) { return rows * tile / n_row_tiles(rows); }

struct ActivationView {
  int8_t* data = nullptr;
  float* scale = nullptr;
  int32_t* correction = nullptr;
  float* scaled_sum = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;  // as in the float source; storage is padded to whole groups with zeros
  int64_t group = 0;

  int64_t groups() const { return (cols + group - 1) / group; }
  int64_t padded() const { return groups() * group; }
};

// Bytes of one row in all four arrays together; a view of `rows` rows takes rows * this.
constexpr int64_t activation_row_bytes(int64_t cols, int64_t group) {
  const int64_t groups = (cols + group - 1) / group;
  return groups * group + groups * 12;
}

// Lays the four arrays out in `memory`: the 4-byte ones first, so that each is aligned.
inline ActivationView activation_view(void* memory, int64_t rows, int64_t cols, int64_t group) {
  const int64_t groups = (cols + group - 1) / group;
  float* scale = static_cast<float*>(memory);
  float* scaled_sum = scale + rows * groups;
  int32_t* correction = reinterpret_cast<int32_t*>(scaled_sum + rows * groups);
  int8_t* data = reinterpret_cast<int8_t*>(correction + rows * groups);
  return {data, scale, correction, scaled_sum, rows, cols, group};
}

}  // namespace jiffy
