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

// What a tile of rows meets: a slab, or two whose sums are wanted together. warm: in cache, since another tile met
// them.
struct SlabPair {
  const uint8_t* data[2];
  int64_t count;
  bool warm;
};
using Sums = float[2][kMaxTileRows * kLanes];  // [slab][row][16]

// sums = x w^T for the slabs and the tile.
using MultiplyTile = void(const MatmulArgs& p, const SlabPair& slabs, RowTile tile, Sums& sums);
MultiplyTile integer_tile, bf16_tile, f32_tile;

namespace {

// Tiles of rows that pass over a slab before the next slab's turn: as many as stay in half a MB of L2. All rows would
// come from farther away again for every slab (512 rows of 8192 columns are 4 MB).
inline int64_t tiles_together(int64_t tiles, int64_t tile_bytes, int64_t most_bytes = int64_t{1} << 19) {
  const int64_t fit = most_bytes / tile_bytes;
  return fit < 1 ? 1 : smaller(fit, tiles);
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

// Asks for the lines that a tile's results go to, and for those of the residual, before the tile is multiplied: each
// row is another page, and the stores of 12 rows otherwise wait for memory one by one (a bare loop over i4 on a Zen 5,
// 512 x 8192 x 2048: 61 % of the integer peak, 70 with this).
inline void prefetch_results(const MatmulArgs& p, int64_t slab, int64_t slabs, RowTile tile) {
  for (int64_t r = tile.first; r < tile.first + tile.rows; ++r) {
    for (int64_t s = slab; s < slab + slabs; ++s) {
      const int64_t at = r * p.y_stride + s * kSlabRows;
      __builtin_prefetch(p.y + at, 1, 2);
      if (p.residual != nullptr) __builtin_prefetch(p.residual + at, 0, 2);
    }
  }
}

// Where registers hold the sums of two slabs, these share the broadcasts of a tile.
constexpr bool kTwoSlabs = kRowsAtOnce == kMaxTileRows;

// Four bytes of a row: read as an operand of the one product that wants them, or broadcast once for two.
template <int kSlabs>
inline auto four_bytes(const int8_t* a) {
  if constexpr (kSlabs == 1) {
    return a;
  } else {
    return splat_four(reinterpret_cast<const uint8_t*>(a));
  }
}

// Keeps GCC from holding what it has read or computed of a place in registers that the sums of many rows need.
template <class T>
inline const T* once_more(const T* place) {
  asm("" : "+r"(place));
  return place;
}

// How many rows registers take at most with one slab and with two.
struct MostRows {
  int64_t one = kRowsAtOnce, two = kRowsAtOnce;
};

// body(part, slab, Constant<n>) for parts of the tile's rows, counted within it, and n slabs from `slab` on: both if
// they are wanted together, else one after the other, each a stream of its own.
template <class Body>
inline void each_part(const SlabPair& slabs, RowTile tile, bool together, MostRows most, Body&& body) {
  const auto all_parts = [&](int64_t at_most, auto&& use) {
    const RowTiles parts{tile.rows, at_most};
    for (int64_t i = 0; i < parts.count(); ++i) use(parts.tile(i));
  };
  if constexpr (kTwoSlabs) {
    if (together && slabs.count == 2) return all_parts(most.two, [&](RowTile part) { body(part, 0, Constant<2>{}); });
  }
  for (int64_t s = 0; s < slabs.count; ++s) {
    all_parts(most.one, [&](RowTile part) { body(part, s, Constant<1>{}); });
  }
}

// Tile::run<rows, far>(args), rows of 1..kMost: more than four are instantiated only where registers allow, and far
// only where it matters. (Asked at run time, it costs 8 % of one row's bandwidth.)
template <class Tile, int kMost = kRowsAtOnce, class Args>
inline void run_rows(int64_t rows, bool far, const Args& args) {
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
