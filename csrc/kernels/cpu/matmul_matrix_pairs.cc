// x w^T with bf16 weights, by instructions that multiply up to 16 rows by 16 outputs at once, 32 columns deep. They add
// in an order of their own, the same for every row of a tile, so that a row alone goes through them, too: its bits
// depend neither on its companions nor on how loops are cut.
//
// Loops: those of matmul_panel.h -> 384 columns -> two tiles -> 32 columns. The weights of a panel's columns stay in L1
// while its tiles pass over them; sums wait in memory as the f32 that they are. A single tile waits for memory and
// takes one slab at a time, all columns at once: one stream.
//
// One core of a Granite Rapids Xeon, 768 columns, 320 rows, ns for a product of 16 x 32 x 16 (4.3 at the peak): one
// tile and one slab 9.4, two and two 8.9, the same in runs of 384 columns 7.3.
#ifdef JIFFY_MATRIX_TILES
#include "kernels/cpu/matmul_panel.h"

namespace jiffy::JIFFY_ISA {
namespace {

constexpr int64_t kRunBytes = 64;  // of a row's bf16 in a product
constexpr int64_t kPanelRuns = 12;

// One or two tiles of rows, one or two slabs, and some of their columns.
struct Products {
  const int8_t* rows[2];
  int64_t row_step[2];  // bytes from a run of columns to the next
  const uint8_t* weights[2];
  int64_t runs, run_bytes;
  bool first;      // of all columns
  TileSums* sums;  // [tile][2]
};

// Calls body<i>() for tile i / 2 and slab i % 2.
template <int kTiles, int kSlabs, class Body>
inline void each_sum(Body&& body) {
  body.template operator()<0>();
  if constexpr (kSlabs == 2) body.template operator()<1>();
  if constexpr (kTiles == 2) body.template operator()<2>();
  if constexpr (kTiles == 2 && kSlabs == 2) body.template operator()<3>();
}

template <int kTiles, int kSlabs>
void add_products(const Products& p) {
  each_sum<kTiles, kSlabs>([&]<int i>() { p.first ? clear_tile<i>() : load_tile<i>(p.sums[i], kLineBytes); });
  const int8_t *a = p.rows[0], *b = p.rows[1];
  const uint8_t *w = p.weights[0], *v = p.weights[1];
  for (int64_t run = 0; run < p.runs; ++run) {
    load_tile<4>(a, p.run_bytes);
    load_tile<6>(w, kLineBytes);
    if constexpr (kTiles == 1 && kSlabs == 1) {
      for (int line = 0; line < kMatrixTileRows; ++line) __builtin_prefetch(w + 4096 + line * kLineBytes);
    }
    add_pairs<0, 4, 6>();
    if constexpr (kSlabs == 2) load_tile<7>(v, kLineBytes), add_pairs<1, 4, 7>();
    if constexpr (kTiles == 2) load_tile<5>(b, p.run_bytes), add_pairs<2, 5, 6>();
    if constexpr (kTiles == 2 && kSlabs == 2) add_pairs<3, 5, 7>();
    a += p.row_step[0], b += p.row_step[1];
    w += kMatrixTileRows * kLineBytes, v += kMatrixTileRows * kLineBytes;
  }
  each_sum<kTiles, kSlabs>([&]<int i>() { store_tile<i>(p.sums[i]); });
}

void add_products(const Products& p, int64_t tiles, int64_t slabs) {
  if (tiles == 2) return slabs == 2 ? add_products<2, 2>(p) : add_products<2, 1>(p);
  slabs == 2 ? add_products<1, 2>(p) : add_products<1, 1>(p);
}

// A slab's weights from a column on, which is given in bytes of a row.
const uint8_t* columns(const Slabs& slabs, int64_t i, int64_t at) {
  return slabs.matrix[i]->slab(slabs.slab[i]) + at / 4 * kLineBytes;
}

// The columns [begin, end), in bytes of a row: whole runs, or one that is shorter.
void add_cols(const Panel& tiles, const Slabs& slabs, int64_t begin, int64_t end, PanelSums& sums) {
  const int64_t run_bytes = smaller(kRunBytes, end - begin);
  const int64_t slabs_at_once = tiles.end - tiles.begin == 1 ? 1 : slabs.count;
  for (int64_t t = tiles.begin; t < tiles.end; t += 2) {
    const int64_t n = smaller(2, tiles.end - t);
    Products p{};
    p.runs = (end - begin) / run_bytes;
    p.run_bytes = run_bytes;
    p.first = begin == 0;
    for (int64_t i = 0; i < n; ++i) {
      const RowTile tile = tiles.x.tiles().tile(t + i);
      p.rows[i] = tiles.x.place(tile, 0, begin);
      p.row_step[i] = tile.rows * kRunBytes;
    }
    for (int64_t slab = 0; slab < slabs.count; slab += slabs_at_once) {
      for (int64_t i = 0; i < slabs_at_once; ++i) p.weights[i] = columns(slabs, slab + i, begin);
      p.sums = sums[t - tiles.begin] + slab;
      add_products(p, n, slabs_at_once);
    }
  }
}

// sums[tile][slab] over all columns. Tiles are shaped for whole runs before and behind it: shaping them takes a while.
void multiply(const Panel& tiles, const Slabs& slabs, int rows, PanelSums& sums) {
  const int64_t bytes = tiles.x.row_bytes(), whole = bytes / kRunBytes * kRunBytes;
  const int64_t together = tiles.end - tiles.begin == 1 ? whole : kPanelRuns * kRunBytes;
  for (int64_t at = 0; at < whole; at += together) add_cols(tiles, slabs, at, smaller(whole, at + together), sums);
  if (whole == bytes) return;
  shape_tiles(rows, static_cast<int>(bytes - whole));
  add_cols(tiles, slabs, whole, bytes, sums);
  shape_tiles(rows, kRunBytes);
}

}  // namespace

void matmul_by_pair_tiles(const MatmulArgs& p) {
  const RowTiles tiles = p.x.tiles();
  const int rows = static_cast<int>(tiles.tile(tiles.count() - 1).rows);
  shape_tiles(rows, kRunBytes);
  in_panels(
      p, [](const Slabs&) {},
      [=](const Panel& panel, const Slabs& slabs, PanelSums& sums) { multiply(panel, slabs, rows, sums); });
  release_tiles();
}

}  // namespace jiffy::JIFFY_ISA
#endif
