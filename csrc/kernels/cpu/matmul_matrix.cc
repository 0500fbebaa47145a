// x w^T with integer weights, by instructions that multiply up to 16 rows by 16 outputs at once. They sum exactly, and
// what follows is done as elsewhere, so the bits are those of every other set.
//
// Loops: block of rows that stays in L2 -> slab -> tile of at most 16 rows -> group. A slab's codes are widened to
// signed bytes once for the block's tiles; while these pass, the next slab is asked for.
//
// One core of a Granite Rapids Xeon takes 16 cycles for a product of 16 x 64 x 16 and as many to store its sums, one
// after the other, and 48 vector instructions to convert, scale and add those, which don't run beside a product either:
// 17.5 ns for a group of 32 and 27 for one of 128.
#ifdef JIFFY_MATRIX_TILES
#include "kernels/cpu/matmul_group.h"
#include "kernels/cpu/matmul_tile.h"
#include "kernels/cpu/simd/matrix_tiles.h"

namespace jiffy::JIFFY_ISA {
namespace {

constexpr int kMostTiles = 16;  // whose sums over all columns are under way
constexpr int kUnderWay = 2;    // groups: the sums of one are converted while the next one is multiplied
using Sums = int32_t[kMatrixTileRows * kLanes];

// A slab in the caller's scratch: all headers as f32, all codes as signed bytes.
struct WideSlab {
  float* scale;   // [n_groups][16]
  float* offset;  // [n_groups][16]
  int8_t* codes;  // [cols_padded / 4][16][4]

  WideSlab(float* scratch, int64_t groups)
      : scale(scratch), offset(scale + groups * kLanes), codes(reinterpret_cast<int8_t*>(offset + groups * kLanes)) {}
};

template <int kBits, Offset kOffset>
void widen(const PackedMatrix& w, int64_t slab, int64_t groups, const WideSlab& out) {
  const bool f32_header = w.format.scale == ScaleType::kF32;
  const int64_t lines = lines_per_group(w.format);
  const uint8_t* line = w.slab(slab);
  const uint8_t* pair = line;
  int8_t* codes = out.codes;
  for (int64_t g = 0; g < groups; ++g) {
    const Header header = read_header<kOffset>(f32_header, g, line, pair);
    store(out.scale + g * kLanes, header.scale);
    store(out.offset + g * kLanes, header.offset);
    line = header.codes;
    for (int64_t i = 0; i < lines; ++i, line += kLineBytes) {
      if constexpr (kBits == 8) codes = store_signed_bytes(codes, load_codes(line));
      if constexpr (kBits == 4) codes = store_signed_nibbles(codes, load_codes(line), kOffset == Offset::kNone ? 8 : 0);
    }
  }
}

// One tile of rows, and how it meets a slab.
struct MatrixArgs {
  const MatrixTiles& unit;
  const int8_t* data;  // [cols_padded / cols_at_once][rows][cols_at_once]
  RowGroups x;         // [n_groups][rows]
  int64_t rows;        // of the tile
  int64_t groups;
  int group;
  int cols_at_once;
  Sums* sums;  // [kUnderWay]
};

// acc[0:kRows][16]; the rows beyond the tile's are of no account.
template <int kRows, Offset kOffset>
void multiply(const MatrixArgs& t, const WideSlab& w, float* acc) {
  Floats total[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) total[r] = zeros();
  for (int64_t g = 0; g <= t.groups; ++g) {
    if (g < t.groups) {
      t.unit.clear();
      for (int64_t c = g * t.group; c < (g + 1) * t.group; c += t.cols_at_once) {
        t.unit.add_product(t.data + c * t.rows, t.cols_at_once, w.codes + c * kLanes);
      }
      t.unit.store(t.sums[g % kUnderWay]);
    }
    const int64_t done = g - 1;
    if (done < 0) continue;
    const int32_t* sums = t.sums[done % kUnderWay];
    const Floats scale = load(w.scale + done * kLanes), offset = load(w.offset + done * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Ints sum = bits(load(reinterpret_cast<const float*>(sums + r * kLanes)));
      total[r] = add_group<kOffset>(total[r], sum, scale, offset, t.x, done * t.rows + r);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) store(acc + r * kLanes, total[r]);
}

// Asks for the part `i` of `n` of a slab.
void prefetch_part(const PackedMatrix& w, int64_t slab, int64_t i, int64_t n) {
  const int64_t lines = slab_bytes(w.format, w.cols) / kLineBytes;
  for (int64_t at = lines * i / n; at < lines * (i + 1) / n; ++at) {
    __builtin_prefetch(w.slab(slab) + at * kLineBytes, 0, 2);
  }
}

template <int kBits, Offset kOffset>
void run(const MatmulArgs& p) {
  const RowTiles tiles = p.x.tiles();
  const int64_t most = tiles.tile(tiles.count() - 1).rows, groups = p.x.groups();
  const int group = p.weight.format.group, cols_at_once = static_cast<int>(p.x.run());
  const MatrixTiles unit(static_cast<int>(most), cols_at_once);
  const auto multiply_tile = most <= 12 ? multiply<12, kOffset> : multiply<16, kOffset>;
  const bool gated = p.up.data != nullptr;
  const WideSlab weight(p.scratch, groups), up(p.scratch + matmul_scratch_floats(p.x.padded()) / 2, groups);
  alignas(64) Sums sums[kUnderWay] = {};
  alignas(64) float acc[kMatrixTileRows * kLanes], up_acc[kMatrixTileRows * kLanes];
  const int64_t together = tiles_together(tiles.count(), kMatrixTileRows * p.x.row_bytes());
  for (int64_t block = 0; block < tiles.count(); block += together) {
    const int64_t n = smaller(together, tiles.count() - block);
    for (int64_t slab = p.begin; slab < p.end; ++slab) {
      widen<kBits, kOffset>(p.weight, slab, groups, weight);
      if (gated) widen<kBits, kOffset>(p.up, slab, groups, up);
      for (int64_t i = 0; i < n; ++i) {
        const RowTile tile = tiles.tile(block + i);
        const MatrixArgs args{
            unit, p.x.place(tile, 0, 0), RowGroups(p.x, tile.first * groups), tile.rows, groups, group, cols_at_once,
            sums};
        prefetch_part(p.weight, slab + 1, i, n);
        multiply_tile(args, weight, acc);
        if (gated) {
          prefetch_part(p.up, slab + 1, i, n);
          multiply_tile(args, up, up_acc);
        }
        finish_tile(p, slab, tile.first, tile.rows, acc, gated ? up_acc : nullptr);
      }
    }
  }
  unit.release();
}

template <int kBits>
void run(const MatmulArgs& p) {
  switch (p.weight.format.offset) {
    case Offset::kNone:
      return run<kBits, Offset::kNone>(p);
    case Offset::kMin:
      return run<kBits, Offset::kMin>(p);
    case Offset::kZero:
      return run<kBits, Offset::kZero>(p);
  }
}

}  // namespace

void matmul_by_matrix_tiles(const MatmulArgs& p) {
  if (p.weight.format.bits == 4) return run<4>(p);
  run<8>(p);
}

}  // namespace jiffy::JIFFY_ISA
#endif
