// y[r,n] = sum_k x[r,k] * w[n,k]    x: rows as the weights want them  w: P16
//
// Loops: slab of 16 outputs -> tile of at most 12 rows -> k. The slab stays in L1 or L2 while every tile passes over
// it, so weights are read from memory once. Each output has one order of addition, whatever the number of rows or
// threads.
#include "kernels/cpu/matmul_tile.h"

namespace jiffy::JIFFY_ISA {
namespace {

SlabTile& tile_function(const WeightFormat& f) {
  switch (f.bits) {
    case 32:
      return f32_tile;
    case 16:
      return bf16_tile;
    default:
      return integer_tile;
  }
}

// Few slabs hold a new maximum, so the lane is looked for only in those.
void take_max(RowMax& row, int64_t n, Floats value, int lanes) {
  const int32_t magnitude = max_lane(abs_bits(keep_first(value, lanes, zeros())));
  if (magnitude > row.magnitude) row.magnitude = magnitude;
  const Floats kept = keep_first(value, lanes, splat(-__builtin_inff()));
  const float largest = max_lane(kept);
  if (!(largest > row.largest)) return;
  alignas(64) float all[kLanes];
  store(all, kept);
  int lane = 0;
  while (lane < lanes - 1 && all[lane] != largest) ++lane;
  row.largest = largest;
  row.index = static_cast<int32_t>(n) + lane;
}

void finish_row(const MatmulArgs& p, int64_t row, int64_t slab, Floats value) {
  const int64_t n = slab * kSlabRows;
  const int lanes = static_cast<int>(smaller(kLanes, p.weight.rows - n));
  const int64_t at = row * p.y_stride + n;
  if (p.bias != nullptr) value = add(value, load_first(p.bias + n, lanes));
  if (p.residual != nullptr) value = add(load_first(p.residual + at, lanes), value);
  if (p.row_max != nullptr) return take_max(p.row_max[row], n, value, lanes);
  store_first(p.y + at, value, lanes);
}

}  // namespace

void matmul(const MatmulArgs& p) {
  SlabTile& tile = tile_function(p.weight.format);
  const int64_t tiles = n_row_tiles(p.rows);
  alignas(64) float acc[kMaxTileRows * kLanes];
  alignas(64) float up[kMaxTileRows * kLanes];
  for (int64_t slab = p.begin; slab < p.end; ++slab) {
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = row_tile_begin(p.rows, t), rows = row_tile_begin(p.rows, t + 1) - first;
      tile(p, p.weight, slab, first, rows, acc);
      if (p.up.data != nullptr) tile(p, p.up, slab, first, rows, up);
      for (int64_t r = 0; r < rows; ++r) {
        Floats value = load(acc + r * kLanes);
        if (p.up.data != nullptr) value = silu_mul(value, load(up + r * kLanes));
        finish_row(p, first + r, slab, value);
      }
    }
  }
}

}  // namespace jiffy::JIFFY_ISA
