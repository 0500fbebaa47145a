// x w^T with integer weights and activations. Sums within a group are exact integers; across groups there is one FMA
// chain per output, in ascending order, whatever the number of rows, threads or the instruction set.
#include "kernels/cpu/matmul_group.h"
#include "kernels/cpu/matmul_tile.h"

namespace jiffy::JIFFY_ISA {
namespace {

// One row tile of activations, and the slab that it meets.
struct TileArgs {
  const uint8_t* slab;
  const int8_t* data;  // [cols_padded / 4][step][4], from the first row in question
  RowGroups x;         // [n_groups][step]
  int64_t step;        // rows of the whole tile
  int64_t groups;
  int units_per_group;
  bool f32_header;
  float* acc;  // [rows][16]
};

// The sum over codes without their bias. Added at the end of a group, from memory: as a start value it costs a copy of
// every accumulator (group 32, 64 rows: 57 % of the integer peak against 67 %).
template <int kBits, Offset kOffset>
inline Ints without_bias(Ints sum, int32_t correction) {
  if constexpr (kBits == 8) return kBytesBiased ? add(sum, shift_left<4>(splat(correction))) : sum;
  return kOffset == Offset::kNone ? add(sum, splat(correction)) : sum;
}

// Keeps GCC from holding what it has read of a line in registers that the sums of many rows need.
inline const uint8_t* once_more(const uint8_t* line) {
  asm("" : "+r"(line));
  return line;
}

// acc[r] += codes of one unit (32 cols) . activations. kChains breaks the latency chain when there are few rows.
template <int kRows, int kChains, bool kFar>
inline void add_unit_4bit(Ints (&acc)[kChains][kRows], const TileArgs& t, const uint8_t* line, const int8_t* a) {
  NibbleSum sums[kChains][kRows];
  for (int c = 0; c < kChains; ++c) {
    for (int r = 0; r < kRows; ++r) sums[c][r] = begin_nibbles(acc[c][r]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i, line += kLineBytes) {
    prefetch_weights<kRows, kFar>(line);
    const Codes codes = load_codes(line), low = low_nibbles(codes);
    for (int r = 0; r < kRows; ++r) dot_nibbles(sums[2 * i % kChains][r], low, a + 4 * r);
    a += 4 * t.step;
    const Codes high = high_nibbles(kRows > kRowsAtOnce ? load_codes(once_more(line)) : codes);
    for (int r = 0; r < kRows; ++r) dot_nibbles(sums[(2 * i + 1) % kChains][r], high, a + 4 * r);
    a += 4 * t.step;
  }
  for (int c = 0; c < kChains; ++c) {
    for (int r = 0; r < kRows; ++r) acc[c][r] = end_nibbles(acc[c][r], sums[c][r]);
  }
}

template <int kRows, int kChains, bool kFar>
inline void add_unit_8bit(Ints (&acc)[kChains][kRows], const TileArgs& t, const uint8_t* line, const int8_t* a) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i, line += kLineBytes) {
    prefetch_weights<kRows, kFar>(line);
    const Codes codes = load_codes(line);
    for (int r = 0; r < kRows; ++r) dot_bytes(acc[i % kChains][r], codes, a + 4 * r);
    a += 4 * t.step;
  }
}

// acc[r,:] of kRows rows against one slab.
template <int kBits, Offset kOffset>
struct CodeTile {
  static constexpr int kMostRows = kCodeRowsAtOnce;

  template <int kRows, bool kFar>
  static void run(const TileArgs& t) {
    constexpr int kChains = kRows == 1 ? 4 : kRows <= 3 ? 2 : 1;
    Floats total[kRows];
    for (Floats& f : total) f = zeros();
    const uint8_t* line = t.slab;
    const uint8_t* pair = t.slab;
    const int8_t* a = t.data;
    for (int64_t g = 0; g < t.groups; ++g) {
      const Header header = read_header<kOffset>(t.f32_header, g, line, pair);
      line = header.codes;
      const int64_t at = g * t.step;
      Ints acc[kChains][kRows];
      for (int r = 0; r < kRows; ++r) {
        for (int c = 0; c < kChains; ++c) acc[c][r] = splat(int32_t{0});
      }
      for (int u = 0; u < t.units_per_group; ++u) {
        if constexpr (kBits == 4) add_unit_4bit<kRows, kChains, kFar>(acc, t, line, a);
        if constexpr (kBits == 8) add_unit_8bit<kRows, kChains, kFar>(acc, t, line, a);
        line += kBits * kLineBytes;  // 32 cols * kBits / 8 * 16 rows
        a += kUnit * t.step;
      }
      for (int r = 0; r < kRows; ++r) {
        for (int c = 1; c < kChains; ++c) acc[0][r] = add(acc[0][r], acc[c][r]);
        const Ints sum = without_bias<kBits, kOffset>(acc[0][r], t.x.correction[at + r]);
        total[r] = add_group<kOffset>(total[r], sum, header.scale, header.offset, t.x, at + r);
      }
    }
    for (int r = 0; r < kRows; ++r) store(t.acc + r * kLanes, total[r]);
  }
};

template <int kBits, Offset kOffset>
struct Tile : CodeTile<kBits, kOffset> {};

#ifdef JIFFY_BYTES_BY_HALVES
// Few rows wait for memory, and read one stream. More meet each group in two halves of the outputs, and all sums leave
// the registers to be scaled.
template <Offset kOffset>
struct Tile<8, kOffset> {
  static constexpr int kMostRows = kMaxTileRows;

  template <int kRows, bool kFar>
  static void run(const TileArgs& t) {
    if constexpr (kRows <= kRowsAtOnce) {
      CodeTile<8, kOffset>::template run<kRows, kFar>(t);
    } else {
      run_halves<kRows>(t);
    }
  }

 private:
  template <int kRows>
  static void run_halves(const TileArgs& t) {
    alignas(64) int32_t sums[kRows * kLanes];
    const int lines = t.units_per_group * kUnit / 4;
    const auto ahead = [](const uint8_t* at) { prefetch_weights<kRows, false>(at); };
    const uint8_t* line = t.slab;
    const uint8_t* pair = t.slab;
    const int8_t* a = t.data;
    for (int r = 0; r < kRows; ++r) store(t.acc + r * kLanes, zeros());
    for (int64_t g = 0; g < t.groups; ++g, a += lines * 4 * t.step) {
      const Header header = read_header<kOffset>(t.f32_header, g, line, pair);
      sum_bytes<kRows, 0>(header.codes, lines, a, t.step, sums, ahead);
      sum_bytes<kRows, 1>(header.codes, lines, a, t.step, sums, ahead);
      line = header.codes + lines * kLineBytes;
      for (int r = 0; r < kRows; ++r) {
        const Ints sum = bits(load(reinterpret_cast<const float*>(sums + r * kLanes)));
        float* const acc = t.acc + r * kLanes;
        store(acc, add_group<kOffset>(load(acc), sum, header.scale, header.offset, t.x, g * t.step + r));
      }
    }
  }
};
#endif

template <int kBits>
void run_tile(Offset offset, int64_t rows, bool far, const TileArgs& t) {
  switch (offset) {
    case Offset::kNone:
      return run_rows<Tile<kBits, Offset::kNone>>(rows, far, t);
    case Offset::kMin:
      return run_rows<Tile<kBits, Offset::kMin>>(rows, far, t);
    case Offset::kZero:
      return run_rows<Tile<kBits, Offset::kZero>>(rows, far, t);
  }
}

}  // namespace

void integer_tile(const MatmulArgs& p, const PackedMatrix& w, int64_t slab, int64_t first, int64_t rows, float* acc) {
  const WeightFormat& f = w.format;
  const int64_t groups = p.x.groups();
  for (int64_t done = 0; done < rows;) {
    const int64_t left = rows - done;
    const int64_t now =
        f.bits == 4 ? rows_of_pass<Tile<4, Offset::kNone>>(left) : rows_of_pass<Tile<8, Offset::kNone>>(left);
    const int64_t at = first * groups + done;
    const TileArgs args{.slab = w.data + slab * w.slab_stride,
                        .data = p.x.place({first, rows}, done, 0),
                        .x = RowGroups(p.x, at),
                        .step = rows,
                        .groups = groups,
                        .units_per_group = f.group / kUnit,
                        .f32_header = f.scale == ScaleType::kF32,
                        .acc = acc + done * kLanes};
    if (f.bits == 4) {
      run_tile<4>(f.offset, now, p.far_prefetch, args);
    } else {
      run_tile<8>(f.offset, now, p.far_prefetch, args);
    }
    done += now;
  }
}

}  // namespace jiffy::JIFFY_ISA
