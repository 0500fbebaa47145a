// The loops around instructions that multiply matrices: block of rows that stays in L2 -> two slabs -> panel of tiles.
// Included inside no namespace, where JIFFY_MATRIX_TILES is defined.
#pragma once

#include "kernels/cpu/matmul_tile.h"
#include "kernels/cpu/simd/matrix_tiles.h"

namespace jiffy::JIFFY_ISA {
namespace {

constexpr int64_t kPanelTiles = 8;
constexpr int64_t kBlockBytes = 3 << 19;  // of the 2 MB of L2 that CPUs with such instructions have
using TileSums = float[kMatrixTileRows * kLanes];
using PanelSums = TileSums[kPanelTiles][2];  // of two slabs

// Consecutive tiles of rows.
struct Panel {
  const ActivationView& x;
  int64_t begin, end;
};

// Slabs whose weights meet a tile one behind the other: two of one matrix, or one of each of two.
struct Slabs {
  const PackedMatrix* matrix[2];
  int64_t slab[2];
  int64_t count;
  int64_t next;  // where the next ones begin
};

inline Slabs slabs_from(const MatmulArgs& p, int64_t slab, bool alone) {
  if (p.up.data != nullptr) return {{&p.weight, &p.up}, {slab, slab}, 2, slab + 1};
  const int64_t count = alone || slab + 1 == p.end ? 1 : 2;
  return {{&p.weight, &p.weight}, {slab, slab + 1}, count, slab + count};
}

// Asks for the part of the slabs behind `slabs` that is the share of the tiles [begin, end) of n.
inline void prefetch_part(const MatmulArgs& p, const Slabs& slabs, int64_t begin, int64_t end, int64_t n) {
  const int64_t lines = slabs.count * slab_bytes(p.weight.format, p.weight.cols) / kLineBytes;
  for (int64_t at = lines * begin / n; at < lines * end / n; ++at) {
    __builtin_prefetch(p.weight.slab(slabs.next) + at * kLineBytes, 0, 2);  // `up` lies between, where it was packed so
  }
}

inline void finish_panel(const MatmulArgs& p, const Panel& panel, const Slabs& slabs, const PanelSums& sums) {
  for (int64_t t = panel.begin; t < panel.end; ++t) {
    const RowTile tile = panel.x.tiles().tile(t);
    const TileSums(&of_tile)[2] = sums[t - panel.begin];
    if (p.up.data != nullptr) {
      finish_tile(p, slabs.slab[0], tile.first, tile.rows, of_tile[0], of_tile[1]);
      continue;
    }
    for (int64_t i = 0; i < slabs.count; ++i) {
      finish_tile(p, slabs.slab[i], tile.first, tile.rows, of_tile[i], nullptr);
    }
  }
}

// begin(slabs) when their turn comes, then multiply(panel, slabs, sums) for all rows. A single tile waits for memory,
// and takes one slab of a matrix at a time: one stream.
template <class Begin, class Multiply>
inline void in_panels(const MatmulArgs& p, Begin&& begin, Multiply&& multiply) {
  const int64_t n = p.x.tiles().count(), together = tiles_together(n, kMatrixTileRows * p.x.row_bytes(), kBlockBytes);
  alignas(64) PanelSums sums;
  for (int64_t block = 0; block < n; block += together) {
    const int64_t end = smaller(n, block + together);
    for (int64_t slab = p.begin; slab < p.end;) {
      const Slabs slabs = slabs_from(p, slab, n == 1);
      begin(slabs);
      for (int64_t t = block; t < end; t += kPanelTiles) {
        const Panel panel{p.x, t, smaller(end, t + kPanelTiles)};
        if (n > 1) prefetch_part(p, slabs, t - block, panel.end - block, end - block);
        multiply(panel, slabs, sums);
        finish_panel(p, panel, slabs, sums);
      }
      slab = slabs.next;
    }
  }
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
