// What the matmul's drivers and its arithmetics have in common. Included inside no namespace.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {

// acc[0:rows][16] = x w^T for one slab and the tile of the rows [first, first + rows).
using SlabTile = void(const MatmulArgs& p, const PackedMatrix& w, int64_t slab, int64_t first, int64_t rows,
                      float* acc);
SlabTile integer_tile, bf16_tile, f32_tile;

namespace {

// How far ahead of the codes in use memory is asked for. Two threads, 0.5 GB of distinct i4 weights:
// one row 4 KB; several rows spend longer on each line and need more lines under way (docs/design.md, facts).
inline constexpr int64_t kPrefetchOneRow = 4096;
inline constexpr int64_t kPrefetchManyRows = 16384;

// Later passes over a slab find it in cache.
inline int64_t prefetch_distance(bool first_pass, int64_t rows) {
  return !first_pass ? 0 : rows == 1 ? kPrefetchOneRow : kPrefetchManyRows;
}

// Tile::run<rows>(args), rows of 1..kRowsAtOnce: more than four are instantiated only where registers allow.
template <class Tile, class Args>
inline void run_rows(int64_t rows, const Args& args) {
  static_assert(kRowsAtOnce == 4 || kRowsAtOnce == kMaxTileRows);
  using Run = void (*)(const Args&);
  constexpr auto at_most = [](int n) { return n < kRowsAtOnce ? n : kRowsAtOnce; };
  static constexpr Run kTable[] = {
      Tile::template run<1>,           Tile::template run<2>,           Tile::template run<3>,
      Tile::template run<4>,           Tile::template run<at_most(5)>,  Tile::template run<at_most(6)>,
      Tile::template run<at_most(7)>,  Tile::template run<at_most(8)>,  Tile::template run<at_most(9)>,
      Tile::template run<at_most(10)>, Tile::template run<at_most(11)>, Tile::template run<at_most(12)>,
  };
  kTable[rows - 1](args);
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
