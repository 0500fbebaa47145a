// What the matmul's drivers and its arithmetics have in common. Included inside no namespace.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {

// What becomes of the sums [rows][16] of a slab and the tile of the rows [first, first + rows); `up`: of the second
// matrix, or nullptr.
void finish_tile(const MatmulArgs& p, int64_t slab, int64_t first, int64_t rows, const float* acc, const float* up);

// The whole of matmul() where activations lie in wide runs, as q8 and as bf16.
void matmul_by_matrix_tiles(const MatmulArgs& p);
void matmul_by_pair_tiles(const MatmulArgs& p);

// acc[0:rows][16] = x w^T for one slab and the tile of the rows [first, first + rows).
using SlabTile = void(const MatmulArgs& p, const PackedMatrix& w, int64_t slab, int64_t first, int64_t rows,
                      float* acc);
SlabTile integer_tile, bf16_tile;

// The whole of matmul() for f32 weights.
void matmul_f32(const MatmulArgs& p);

namespace {

// Tiles of rows that pass over a slab before the next slab's turn: as many as stay in half a MB of L2. All rows would
// come from farther away again for every slab (512 rows of 8192 columns are 4 MB).
inline int64_t tiles_together(int64_t tiles, int64_t tile_bytes, int64_t most_bytes = int64_t{1} << 19) {
  const int64_t fit = most_bytes / tile_bytes;
  return fit < 1 ? 1 : smaller(fit, tiles);
}

// body(slab, slabs, tile) for all tiles of rows and all slabs of the piece, up to `at_once` of these at a time:
// block of rows that stays in L2 -> slabs -> tile. tile_bytes: of the activations of a whole one.
template <class Body>
inline void each_tile(const MatmulArgs& p, int64_t tile_bytes, int64_t at_once, Body&& body) {
  const RowTiles tiles{p.rows};
  const int64_t together = tiles_together(tiles.count(), tile_bytes);
  for (int64_t block = 0; block < tiles.count(); block += together) {
    const int64_t end = smaller(block + together, tiles.count());
    for (int64_t slab = p.begin; slab < p.end; slab += at_once) {
      const int64_t slabs = smaller(at_once, p.end - slab);
      for (int64_t t = block; t < end; ++t) body(slab, slabs, tiles.tile(t));
    }
  }
}

// Asks for the weights that come next, over the end of a slab, too: the next one lies behind it. One or two rows wait
// for memory alone and want it in L1; more rows want it in L2 early and in L1 late. Two Zen 4 threads, 0.5 GB of
// distinct i4 weights, 1 / 3 / 8 rows: 4 KB ahead into L1 38 / 33 / 18 GB/s, with 8 KB into L2 and 2 KB into L1 31 / 35
// / 19. A Xeon's memory answers later (`far`): Granite Rapids, 1 row, of the bandwidth that a probe finds: 80 % with
// 4 KB into L1, 85 with 8 KB into L2 and 2 KB into L1, 88 with 16 KB and 2 KB, no more with 32 KB.
template <int kRows, bool kFar>
inline void prefetch_weights(const uint8_t* line) {
  if constexpr (kRows > 2 || kFar) {
    __builtin_prefetch(line + (kRows > 2 ? 8192 : 16384), 0, 2);
    __builtin_prefetch(line + 2048);
  } else {
    __builtin_prefetch(line + 4096);
  }
}

// How many of a tile's rows that are left the next pass of Tile takes: passes as even as possible.
template <class Tile>
inline int64_t rows_of_pass(int64_t left) {
  if (left <= Tile::kMostRows) return left;
  const int64_t passes = (left + Tile::kMostRows - 1) / Tile::kMostRows;
  return (left + passes - 1) / passes;
}

// Tile::run<rows, far>(args), rows of 1..Tile::kMostRows: as many as registers allow, and far only where it matters.
// (Asked at run time, it costs 8 % of one row's bandwidth.)
template <class Tile, class Args>
inline void run_rows(int64_t rows, bool far, const Args& args) {
  constexpr int kMost = Tile::kMostRows;
  static_assert(kMost >= 4 && kMost <= kMaxTileRows);
  using Run = void (*)(const Args&);
  constexpr auto at_most = [](int n) { return n < kMost ? n : kMost; };
  static constexpr Run kFar[] = {Tile::template run<1, true>, Tile::template run<2, true>};
  static constexpr Run kNear[] = {
      Tile::template run<1, false>,           Tile::template run<2, false>,
      Tile::template run<3, false>,           Tile::template run<4, false>,
      Tile::template run<at_most(5), false>,  Tile::template run<at_most(6), false>,
      Tile::template run<at_most(7), false>,  Tile::template run<at_most(8), false>,
      Tile::template run<at_most(9), false>,  Tile::template run<at_most(10), false>,
      Tile::template run<at_most(11), false>, Tile::template run<at_most(12), false>,
  };
  (far && rows <= 2 ? kFar : kNear)[rows - 1](args);
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
