// x w^T with integer weights, by instructions that multiply up to 16 rows by 16 outputs at once. They sum exactly, and
// what follows is done as elsewhere, so the bits are those of every other set.
//
// Loops: those of matmul_panel.h -> 768 columns -> tile of at most 16 rows -> slab -> group. A tile's columns stay in
// L1 for two slabs, and the slabs' for all tiles of a panel. 4-bit codes are widened to signed bytes once for the
// block's tiles; codes of 8 bits are multiplied as they lie.
//
// One core of a Granite Rapids Xeon takes 16 cycles for a product of 16 x 64 x 16, 16 to store its sums, 8 to load each
// operand from L1. While it multiplies, one of its two pipes for floats stands still: the 48 vector instructions that
// convert, scale and add the sums of a group then take 48 cycles. So three groups are under way, one of them
// multiplied, one stored, one added, in tiles and memory of their own (a group of 128 in L1: from 24 to 20 ns).
#ifdef JIFFY_MATRIX_TILES
#include "kernels/cpu/matmul_group.h"
#include "kernels/cpu/matmul_panel.h"

namespace jiffy::JIFFY_ISA {
namespace {

constexpr int64_t kPanelCols = 768;
constexpr int kMostGroups = kPanelCols / 32;
constexpr int kUnderWay = 4;  // a power of two
using Sums = int32_t[kMatrixTileRows * kLanes];

// A slab's headers as f32 and its codes as bytes: [group / 4][16][4] for each group.
struct SlabCodes {
  float* scale;         // [n_groups][16]
  float* offset;        // [n_groups][16]
  const int8_t* codes;  // of the first group
  int64_t group_bytes;
  int64_t header_bytes;  // in front of each further one, or of each further pair
  int paired;            // 0 or 1

  const int8_t* group(int64_t g) const { return codes + g * group_bytes + (g >> paired) * header_bytes; }
};

// scratch: for the headers, and for the codes of formats that are widened.
template <int kBits, Offset kOffset>
SlabCodes open_slab(const PackedMatrix& w, int64_t slab, int64_t groups, float* scratch) {
  const WeightFormat& f = w.format;
  SlabCodes out{scratch, scratch + groups * kLanes, nullptr, f.group * kLanes, 0, 0};
  int8_t* wide = reinterpret_cast<int8_t*>(out.offset + groups * kLanes);
  out.codes = wide;
  if constexpr (kBits == 8) {
    out.header_bytes = header_lines(f) * kLineBytes;
    out.paired = paired_header(f) ? 1 : 0;
    out.codes = reinterpret_cast<const int8_t*>(w.slab(slab)) + out.header_bytes;
  }
  const int64_t group_lines = lines_per_group(f);  // a division
  const uint8_t* line = w.slab(slab);
  const uint8_t* pair = line;
  for (int64_t g = 0; g < groups; ++g) {
    const Header header = read_header<kOffset>(f.scale == ScaleType::kF32, g, line, pair);
    store(out.scale + g * kLanes, header.scale);
    store(out.offset + g * kLanes, header.offset);
    line = header.codes;
    const uint8_t* const end = line + group_lines * kLineBytes;
    if constexpr (kBits == 4) {
      for (; line < end; line += kLineBytes) {
        wide = store_signed_nibbles(wide, load_codes(line), kOffset == Offset::kNone ? 8 : 0);
      }
    }
    line = end;
  }
  return out;
}

// One tile of rows, and the groups in which it meets a slab.
struct MatrixArgs {
  const int8_t* data;      // [cols_padded / cols_at_once][rows][cols_at_once]
  RowGroups x;             // [n_groups][rows]
  const float* row_scale;  // [rows] where groups have powers of two
  int64_t rows;            // of the tile
  int64_t first, end;      // groups, of
  int64_t groups;
  int64_t group, cols_at_once;
  const int32_t* biases;  // [end - first][16] of the rows: what biased codes add too much
  Sums* sums;             // [kUnderWay]
};

template <int kBits, int kSums>
inline void multiply_run(const MatrixArgs& t, const int8_t* codes, int64_t col) {
  load_tile<4>(t.data + col * t.rows, t.cols_at_once);
  load_tile<6>(codes, kLineBytes);
  kBits == 8 ? add_biased_codes<kSums, 4, 6>() : add_codes<kSums, 4, 6>();
}

// Adds the sums of a group to the totals of the rows [kFrom, kTo).
template <int kBits, class Kind, int kFrom, int kTo, int kRows>
inline __attribute__((always_inline)) void add_sums(const MatrixArgs& t, const SlabCodes& w, int64_t g,
                                                    Floats (&total)[kRows]) {
  const int32_t* sums = t.sums[g % kUnderWay];
  const int32_t* biases = t.biases + (g - t.first) * kLanes;
  const Floats scale = load(w.scale + g * kLanes), offset = load(w.offset + g * kLanes);
#pragma GCC unroll 16
  for (int r = kFrom; r < kTo; ++r) {
    Ints sum = bits(load(reinterpret_cast<const float*>(sums + r * kLanes)));
    if constexpr (kBits == 8) sum = add(sum, splat(biases[r]));
    total[r] = add_group<Kind>(total[r], sum, scale, offset, t.x, g * t.rows + r);
  }
}

// Multiplies group g, stores the sums of the one before, adds those of the one before that.
template <int kBits, class Kind, int kSums, int kRows>
inline __attribute__((always_inline)) void step(const MatrixArgs& t, const SlabCodes& w, int64_t g,
                                                Floats (&total)[kRows]) {
  if (g > t.first && g <= t.end) store_tile<1 - kSums>(t.sums[(g - 1) % kUnderWay]);
  const int8_t* const codes = w.group(g);
  const bool has_sums = g >= t.first + 2;
  if (g < t.end) {
    clear_tile<kSums>();
    multiply_run<kBits, kSums>(t, codes, g * t.group);
  }
  if (has_sums) add_sums<kBits, Kind, 0, kRows / 2>(t, w, g - 2, total);
  if (g < t.end && t.group > t.cols_at_once) {
    multiply_run<kBits, kSums>(t, codes + t.cols_at_once * kLanes, g * t.group + t.cols_at_once);
  }
  if (has_sums) add_sums<kBits, Kind, kRows / 2, kRows>(t, w, g - 2, total);
}

// acc[0:kRows][16] up to group t.end, of t.groups; the rows beyond the tile's are of no account.
template <int kBits, int kRows, class Kind>
void multiply(const MatrixArgs& t, const SlabCodes& w, float* acc) {
  Floats total[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) total[r] = t.first == 0 ? zeros() : load(acc + r * kLanes);
  for (int64_t g = t.first; g < t.end + 2; g += 2) {
    step<kBits, Kind, 0>(t, w, g, total);
    if (g + 1 < t.end + 2) step<kBits, Kind, 1>(t, w, g + 1, total);
  }
  const bool all = t.end == t.groups;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    store(acc + r * kLanes, all ? end_groups<Kind>(total[r], t.row_scale, r) : total[r]);
  }
}

// -128 times the sums of the rows' codes in the groups [first, end).
void find_biases(const MatrixArgs& t, int32_t* to) {
  for (int64_t g = t.first; g < t.end; ++g, to += kLanes) {
    const Ints correction = bits(load(reinterpret_cast<const float*>(t.x.correction + g * t.rows)));
    store(reinterpret_cast<float*>(to), from_bits(shift_left<4>(correction)));
  }
}

template <int kBits, class Kind>
void run(const MatmulArgs& p) {
  const RowTiles tiles = p.x.tiles();
  const int64_t most = tiles.tile(tiles.count() - 1).rows, groups = p.x.groups(), group = p.weight.format.group;
  const auto multiply_tile = most <= 12 ? multiply<kBits, 12, Kind> : multiply<kBits, 16, Kind>;
  alignas(64) Sums sums[kUnderWay] = {};
  alignas(64) int32_t biases[kMostGroups * kLanes];
  SlabCodes codes[2];
  shape_tiles(static_cast<int>(most), static_cast<int>(p.x.run()));
  in_panels(
      p,
      [&](const Slabs& slabs) {
        for (int64_t i = 0; i < slabs.count; ++i) {
          float* const scratch = p.scratch + i * matmul_scratch_floats(p.x.padded()) / 2;
          codes[i] = open_slab<kBits, Kind::kOffset>(*slabs.matrix[i], slabs.slab[i], groups, scratch);
        }
      },
      [&](const Panel& panel, const Slabs& slabs, PanelSums& acc) {
        for (int64_t g = 0; g < groups; g += kPanelCols / group) {
          for (int64_t t = panel.begin; t < panel.end; ++t) {
            const RowTile tile = tiles.tile(t);
            const MatrixArgs args{p.x.place(tile, 0, 0),
                                  RowGroups(p.x, tile.first * groups),
                                  Kind::kPowers ? p.x.row_scale + tile.first : nullptr,
                                  tile.rows,
                                  g,
                                  smaller(groups, g + kPanelCols / group),
                                  groups,
                                  group,
                                  p.x.run(),
                                  biases,
                                  sums};
            if (kBits == 8) find_biases(args, biases);
            for (int64_t i = 0; i < slabs.count; ++i) multiply_tile(args, codes[i], acc[t - panel.begin][i]);
          }
        }
      });
  release_tiles();
}

}  // namespace

void matmul_by_matrix_tiles(const MatmulArgs& p) {
  with_group_kind(p.weight.format, [&](auto kind) {
    p.weight.format.bits == 4 ? run<4, decltype(kind)>(p) : run<8, decltype(kind)>(p);
  });
}

}  // namespace jiffy::JIFFY_ISA
#endif
