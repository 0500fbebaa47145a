// y[r,n] = sum_k x[r,k] * w[n,k]    x: quantised rows  w: P16
//
// Loops: slab of 16 outputs -> tile of at most 12 rows -> groups along k. The slab stays in L1 or L2 while every tile
// passes over it, so weights are read from memory once. Sums within a group are exact integers; across groups there is
// one FMA chain per output, in ascending order, whatever the number of rows, threads or the instruction set.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {
namespace {

// How far ahead of the codes in use memory is asked for. Two threads, 0.5 GB of distinct i4 weights:
// one row 4 KB; several rows spend longer on each line and need more lines under way (docs/design.md, facts).
inline constexpr int64_t kPrefetchOneRow = 4096;
inline constexpr int64_t kPrefetchManyRows = 16384;

// One row tile of activations, and the slab that it meets.
struct TileArgs {
  const uint8_t* slab;
  const int8_t* data;         // [cols_padded / 4][step][4], from the first row in question
  const float* scale;         // [n_groups][step]
  const int32_t* correction;  // [n_groups][step]
  const float* scaled_sum;    // [n_groups][step]
  int64_t step;               // rows of the whole tile
  int64_t groups;
  int units_per_group;
  bool f32_header;
  int64_t prefetch;
  float* acc;  // [rows][16]
};

// The sum over codes without their bias. Added at the end of a group, from memory: as a start value it costs a copy of
// every accumulator (group 32, 64 rows: 57 % of the integer peak against 67 %).
template <int kBits, Offset kOffset>
inline Ints without_bias(Ints sum, int32_t correction) {
  if constexpr (kBits == 8) return kBytesBiased ? add(sum, shift_left<4>(splat(correction))) : sum;
  return kOffset == Offset::kNone ? add(sum, splat(correction)) : sum;
}

// acc[r] += codes of one unit (32 cols) . activations. kChains breaks the latency chain when there are few rows.
template <int kRows, int kChains>
inline void add_unit_4bit(Ints (&acc)[kChains][kRows], const TileArgs& t, const uint8_t* line, const int8_t* a) {
  NibbleSum sums[kChains][kRows];
  for (int c = 0; c < kChains; ++c) {
    for (int r = 0; r < kRows; ++r) sums[c][r] = begin_nibbles(acc[c][r]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i, line += kLineBytes) {
    __builtin_prefetch(line + t.prefetch);
    const Codes codes = load_codes(line);
    const Codes low = low_nibbles(codes), high = high_nibbles(codes);
    for (int r = 0; r < kRows; ++r) dot_nibbles(sums[2 * i % kChains][r], low, a + 4 * r);
    a += 4 * t.step;
    for (int r = 0; r < kRows; ++r) dot_nibbles(sums[(2 * i + 1) % kChains][r], high, a + 4 * r);
    a += 4 * t.step;
  }
  for (int c = 0; c < kChains; ++c) {
    for (int r = 0; r < kRows; ++r) acc[c][r] = end_nibbles(acc[c][r], sums[c][r]);
  }
}

template <int kRows, int kChains>
inline void add_unit_8bit(Ints (&acc)[kChains][kRows], const TileArgs& t, const uint8_t* line, const int8_t* a) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i, line += kLineBytes) {
    __builtin_prefetch(line + t.prefetch);
    const Codes codes = load_codes(line);
    for (int r = 0; r < kRows; ++r) dot_bytes(acc[i % kChains][r], codes, a + 4 * r);
    a += 4 * t.step;
  }
}

struct Header {
  Floats scale, offset;
  const uint8_t* codes;
};

// Reads the header of `group`; `line` is where the stream stands.
template <Offset kOffset>
inline Header read_header(const TileArgs& t, int64_t group, const uint8_t* line, const uint8_t*& pair) {
  if (t.f32_header) {
    const float* f = reinterpret_cast<const float*>(line);
    if constexpr (kOffset == Offset::kNone) return {load(f), zeros(), line + kLineBytes};
    return {load(f), load(f + kLanes), line + 2 * kLineBytes};
  }
  if constexpr (kOffset != Offset::kNone) return {load_f16(line), load_f16(line + 32), line + kLineBytes};
  if (group % 2 == 1) return {load_f16(pair + 32), zeros(), line};
  pair = line;
  return {load_f16(line), zeros(), line + kLineBytes};
}

// acc[r,:] of kRows rows against one slab.
template <int kBits, Offset kOffset, int kRows>
void dot_tile(const TileArgs& t) {
  constexpr int kChains = kRows == 1 ? 4 : kRows <= 3 ? 2 : 1;
  Floats total[kRows];
  for (Floats& f : total) f = zeros();
  const uint8_t* line = t.slab;
  const uint8_t* pair = t.slab;
  const int8_t* a = t.data;
  for (int64_t g = 0; g < t.groups; ++g) {
    const Header header = read_header<kOffset>(t, g, line, pair);
    line = header.codes;
    const int64_t at = g * t.step;
    Ints acc[kChains][kRows];
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kChains; ++c) acc[c][r] = splat(int32_t{0});
    }
    for (int u = 0; u < t.units_per_group; ++u) {
      if constexpr (kBits == 4) add_unit_4bit<kRows, kChains>(acc, t, line, a);
      if constexpr (kBits == 8) add_unit_8bit<kRows, kChains>(acc, t, line, a);
      line += kBits * kLineBytes;  // 32 cols * kBits / 8 * 16 rows
      a += kUnit * t.step;
    }
    for (int r = 0; r < kRows; ++r) {
      for (int c = 1; c < kChains; ++c) acc[0][r] = add(acc[0][r], acc[c][r]);
      Floats dot = to_floats(without_bias<kBits, kOffset>(acc[0][r], t.correction[at + r]));
      if constexpr (kOffset == Offset::kZero) {  // exact: both factors are small integers
        dot = fma(header.offset, splat(0.125f * static_cast<float>(t.correction[at + r])), dot);
      }
      total[r] = fma(dot, mul(header.scale, splat(t.scale[at + r])), total[r]);
      if constexpr (kOffset == Offset::kMin) {
        total[r] = fma(header.offset, splat(t.scaled_sum[at + r]), total[r]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) store(t.acc + r * kLanes, total[r]);
}

using TileFunction = void (*)(const TileArgs&);

template <int kBits, Offset kOffset>
TileFunction tile_function(int64_t rows) {
  static_assert(kRowsAtOnce == 4 || kRowsAtOnce == kMaxTileRows);
  constexpr int kWide =
      kRowsAtOnce == kMaxTileRows ? 1 : 0;  // 5..12 rows at once are instantiated only where registers allow
  static constexpr TileFunction kTable[] = {
      dot_tile<kBits, kOffset, 1>,
      dot_tile<kBits, kOffset, 2>,
      dot_tile<kBits, kOffset, 3>,
      dot_tile<kBits, kOffset, 4>,
      dot_tile < kBits,
      kOffset,
      kWide ? 5 : 4 >,
      dot_tile < kBits,
      kOffset,
      kWide ? 6 : 4 >,
      dot_tile < kBits,
      kOffset,
      kWide ? 7 : 4 >,
      dot_tile < kBits,
      kOffset,
      kWide ? 8 : 4 >,
      dot_tile < kBits,
      kOffset,
      kWide ? 9 : 4 >,
      dot_tile < kBits,
      kOffset,
      kWide ? 10 : 4 >
      , dot_tile < kBits, kOffset, kWide ? 11 : 4 >, dot_tile < kBits, kOffset, kWide ? 12 : 4 >,
  };
  return kTable[rows - 1];
}

template <int kBits>
TileFunction tile_function(Offset offset, int64_t rows) {
  switch (offset) {
    case Offset::kNone:
      return tile_function<kBits, Offset::kNone>(rows);
    case Offset::kMin:
      return tile_function<kBits, Offset::kMin>(rows);
    case Offset::kZero:
      return tile_function<kBits, Offset::kZero>(rows);
  }
  return nullptr;
}

// acc[rows of the tile][16] = x w^T for one slab, kRowsAtOnce rows a pass.
void quantized_tile(const MatmulArgs& p, const PackedMatrix& w, int64_t slab, int64_t first, int64_t rows, float* acc) {
  const WeightFormat& f = w.format;
  const int64_t groups = p.x.groups();
  for (int64_t done = 0; done < rows;) {
    const int64_t now = smaller(rows - done, kRowsAtOnce);
    const int64_t at = first * groups + done;
    const TileFunction tile = f.bits == 4 ? tile_function<4>(f.offset, now) : tile_function<8>(f.offset, now);
    const bool from_memory = first == 0 && done == 0;  // later passes find the slab in cache
    tile({.slab = w.data + slab * w.slab_stride,
          .data = p.x.data + first * p.x.padded() + done * 4,
          .scale = p.x.scale + at,
          .correction = p.x.correction + at,
          .scaled_sum = p.x.scaled_sum + at,
          .step = rows,
          .groups = groups,
          .units_per_group = f.group / kUnit,
          .f32_header = f.scale == ScaleType::kF32,
          .prefetch = !from_memory ? 0
                      : rows == 1  ? kPrefetchOneRow
                                   : kPrefetchManyRows,
          .acc = acc + done * kLanes});
    done += now;
  }
}

// f32 weights: one FMA chain per fixed segment of k, segments summed in order.
template <int kRows>
void f32_tile(const float* slab, const float* x, int64_t cols, float* acc) {
  constexpr int64_t kSegmentCols = 512;
  Floats total[kRows];
  for (Floats& f : total) f = zeros();
  for (int64_t begin = 0; begin < cols; begin += kSegmentCols) {
    const int64_t end = smaller(cols, begin + kSegmentCols);
    Floats part[kRows];
    for (Floats& f : part) f = zeros();
    for (int64_t k = begin; k < end; ++k) {
      const Floats w = load(slab + k * kLanes);
      __builtin_prefetch(slab + k * kLanes + kPrefetchOneRow / 4);
      for (int r = 0; r < kRows; ++r) part[r] = fma(splat(x[r * cols + k]), w, part[r]);
    }
    for (int r = 0; r < kRows; ++r) total[r] = add(total[r], part[r]);
  }
  for (int r = 0; r < kRows; ++r) store(acc + r * kLanes, total[r]);
}

void float_tile(const MatmulArgs& p, const PackedMatrix& w, int64_t slab, int64_t first, int64_t rows, float* acc) {
  const float* weights = reinterpret_cast<const float*>(w.data + slab * w.slab_stride);
  for (int64_t r = 0; r < rows;) {
    const float* x = p.x_f32 + (first + r) * w.cols;
    float* out = acc + r * kLanes;
    if (rows - r >= 4) {
      f32_tile<4>(weights, x, w.cols, out);
      r += 4;
    } else {
      f32_tile<1>(weights, x, w.cols, out);
      r += 1;
    }
  }
}

void finish_row(const MatmulArgs& p, int64_t row, int64_t slab, Floats value) {
  const int64_t n = slab * kSlabRows;
  const int lanes = static_cast<int>(smaller(kLanes, p.weight.rows - n));
  const int64_t at = row * p.y_stride + n;
  if (p.bias != nullptr) value = add(value, load_first(p.bias + n, lanes));
  if (p.residual != nullptr) value = add(load_first(p.residual + at, lanes), value);
  store_first(p.y + at, value, lanes);
}

}  // namespace

void matmul(const MatmulArgs& p) {
  const auto tile = p.weight.format.quantized() ? quantized_tile : float_tile;
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
