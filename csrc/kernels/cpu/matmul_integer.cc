// x w^T with integer weights and activations. Sums within a group are exact integers; across groups there is one FMA
// chain per output, in ascending order, whatever the number of rows, threads or the instruction set.
#include "kernels/cpu/matmul_group.h"
#include "kernels/cpu/matmul_tile.h"

namespace jiffy::JIFFY_ISA {
namespace {

// One row tile of activations, and the slabs that it meets.
struct TileArgs {
  const uint8_t* slab[2];
  const int8_t* data;      // [cols_padded / 4][step][4], from the first row in question
  RowGroups x;             // [n_groups][step]
  const float* row_scale;  // [step] where groups have powers of two
  int64_t step;            // rows of the whole tile
  int64_t groups;
  int units_per_group;
  bool f32_header;
  float* acc[2];  // [rows][16]
};

// The sum over codes without their bias. Added at the end of a group, from memory: as a start value it costs a copy of
// every accumulator (group 32, 64 rows: 57 % of the integer peak against 67 %).
template <int kBits, Offset kOffset>
inline Ints without_bias(Ints sum, int32_t correction) {
  if constexpr (kBits == 8) return kBytesBiased ? add(sum, shift_left<4>(splat(correction))) : sum;
  return kOffset == Offset::kNone ? add(sum, splat(correction)) : sum;
}

// Sums of a tile's rows with each slab. Several chains break the latency chain when there are few rows.
template <int kSlabs, int kRows>
struct GroupSums {
  static constexpr int kChains = kSlabs == 2 || kRows > 3 ? 1 : kRows == 1 ? 4 : 2;
  Ints sum[kSlabs][kChains][kRows];

  void clear() {
    for (auto& of_slab : sum) {
      for (auto& chain : of_slab) {
        for (Ints& x : chain) x = splat(int32_t{0});
      }
    }
  }
  Ints of(int s, int r) const {
    Ints all = sum[s][0][r];
    for (int c = 1; c < kChains; ++c) all = add(all, sum[s][c][r]);
    return all;
  }
};

// += codes of one unit (32 cols) . activations. Out of line the sums would be in memory.
template <bool kFar, int kSlabs, int kRows>
[[gnu::always_inline]] inline void add_unit_4bit(GroupSums<kSlabs, kRows>& acc, const TileArgs& t,
                                                 const uint8_t* const (&line)[kSlabs], const int8_t* a) {
  constexpr int kChains = GroupSums<kSlabs, kRows>::kChains;
  NibbleSum sums[kSlabs][kChains][kRows];
  for (int s = 0; s < kSlabs; ++s) {
    for (int c = 0; c < kChains; ++c) {
      for (int r = 0; r < kRows; ++r) sums[s][c][r] = begin_nibbles(acc.sum[s][c][r]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    Codes low[kSlabs], high[kSlabs];
    for (int s = 0; s < kSlabs; ++s) {
      if constexpr (kSlabs == 1) prefetch_weights<kRows, kFar>(line[s] + i * kLineBytes);  // two are in cache
      const Codes codes = load_codes(line[s] + i * kLineBytes);
      low[s] = low_nibbles(codes), high[s] = high_nibbles(codes);
    }
    for (int half = 0; half < 2; ++half, a += 4 * t.step) {
      if (half == 1 && kRows > kRowsBesideCodes)
        high[0] = high_nibbles(load_codes(once_more(line[0] + i * kLineBytes)));
      for (int r = 0; r < kRows; ++r) {
        const auto four = four_bytes<kSlabs>(a + 4 * r);
        for (int s = 0; s < kSlabs; ++s) {
          dot_nibbles(sums[s][(2 * i + half) % kChains][r], half == 0 ? low[s] : high[s], four, 2 * i + half < kChains);
        }
      }
    }
  }
  for (int s = 0; s < kSlabs; ++s) {
    for (int c = 0; c < kChains; ++c) {
      for (int r = 0; r < kRows; ++r) acc.sum[s][c][r] = end_nibbles(acc.sum[s][c][r], sums[s][c][r]);
    }
  }
}

template <bool kFar, int kSlabs, int kRows>
inline void add_unit_8bit(GroupSums<kSlabs, kRows>& acc, const TileArgs& t, const uint8_t* const (&line)[kSlabs],
                          const int8_t* a) {
  constexpr int kChains = GroupSums<kSlabs, kRows>::kChains;
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i, a += 4 * t.step) {
    Codes codes[kSlabs];
    for (int s = 0; s < kSlabs; ++s) {
      if constexpr (kSlabs == 1) prefetch_weights<kRows, kFar>(line[s] + i * kLineBytes);  // two are in cache
      codes[s] = load_codes(line[s] + i * kLineBytes);
    }
    for (int r = 0; r < kRows; ++r) {
      const auto four = four_bytes<kSlabs>(a + 4 * r);
      for (int s = 0; s < kSlabs; ++s) dot_bytes(acc.sum[s][i % kChains][r], codes[s], four);
    }
  }
}

// acc[s][r,:] of kRows rows against kSlabs slabs. kUnits: of a group, where the number is known, else 0. A loop of one
// costs registers (a Zen 3 core, 126 rows, of AVX2's peak: i4 83 to 87 %, i4a 90 to 104).
template <int kBits, class Kind, int kUnits, int kSlabs>
struct CodeTile {
  template <int kRows, bool kFar>
  static void run(const TileArgs& t) {
    Floats total[kSlabs][kRows];
    for (auto& of_slab : total) {
      for (Floats& f : of_slab) f = zeros();
    }
    const uint8_t *line[kSlabs], *pair[kSlabs];
    for (int s = 0; s < kSlabs; ++s) line[s] = pair[s] = t.slab[s];
    const int8_t* a = t.data;
    for (int64_t g = 0; g < t.groups; ++g) {
      Header header[kSlabs];
      for (int s = 0; s < kSlabs; ++s) {
        header[s] = read_header<Kind::kOffset>(t.f32_header, g, line[s], pair[s]);
        line[s] = header[s].codes;
      }
      GroupSums<kSlabs, kRows> acc;
      acc.clear();
      const int units = kUnits > 0 ? kUnits : t.units_per_group;
      for (int u = 0; u < units; ++u) {
        if constexpr (kBits == 4) add_unit_4bit<kFar>(acc, t, line, a);
        if constexpr (kBits == 8) add_unit_8bit<kFar>(acc, t, line, a);
        for (const uint8_t*& l : line) l += kBits * kLineBytes;  // 32 cols * kBits / 8 * 16 rows
        a += kUnit * t.step;
      }
      for (int s = 0; s < kSlabs; ++s) add_groups(total[s], acc, s, header[s], t.x, g * t.step);
    }
    // Unrolled, so that GCC 12 doesn't keep the totals in memory and store them after each group (i4, 64 rows: 78 to 81
    // % of a Zen 4's peak).
#pragma GCC unroll 2
    for (int s = 0; s < kSlabs; ++s) {
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) store(t.acc[s] + r * kLanes, end_groups<Kind>(total[s][r], t.row_scale, r));
    }
  }

  template <int kRows>
  static void add_groups(Floats (&total)[kRows], const GroupSums<kSlabs, kRows>& acc, int s, const Header& header,
                         const RowGroups& x, int64_t at) {
    for (int r = 0; r < kRows; ++r) {
      const Ints sum = without_bias<kBits, Kind::kOffset>(acc.of(s, r), x.correction[at + r]);
      total[r] = add_group<Kind>(total[r], sum, header.scale, header.offset, x, at + r);
    }
  }
};

// Two slabs: long groups want 12 chains to hide the latency of vpdpbusd; short ones interrupt them with scales and
// offsets, which then spill. A Zen 5 core, 512 x 2048 x 2048, 1100 GOPS at most, one slab with 12 rows / two with 6 /
// two with 4: i4 645 / 705 / 735, i4a 580 / 635 / 690, i4g128 835 / 885 / 805, i8 790 / 875 / 790.
constexpr int64_t rows_of_two_slabs(int64_t group) { return group == 32 ? 4 : 6; }

template <int kBits, class Kind, int kUnits, int kSlabs>
struct Tile : CodeTile<kBits, Kind, kUnits, kSlabs> {
  static constexpr int kMostRows = kSlabs == 1 ? kRowsAtOnce : rows_of_two_slabs(kUnits == 1 ? 32 : 128);
};

#ifdef JIFFY_BYTES_BY_HALVES
// Few rows wait for memory, and read one stream. More meet each group in two halves of the outputs, and all sums leave
// the registers to be scaled.
template <class Kind, int kUnits>
struct Tile<8, Kind, kUnits, 1> {
  static constexpr int kMostRows = kMaxTileRows;

  template <int kRows, bool kFar>
  static void run(const TileArgs& t) {
    if constexpr (kRows <= kRowsBesideCodes) {
      CodeTile<8, Kind, kUnits, 1>::template run<kRows, kFar>(t);
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
    const uint8_t* line = t.slab[0];
    const uint8_t* pair = t.slab[0];
    const int8_t* a = t.data;
    for (int r = 0; r < kRows; ++r) store(t.acc[0] + r * kLanes, zeros());
    for (int64_t g = 0; g < t.groups; ++g, a += lines * 4 * t.step) {
      const Header header = read_header<Kind::kOffset>(t.f32_header, g, line, pair);
      sum_bytes<kRows, 0>(header.codes, lines, a, t.step, sums, ahead);
      sum_bytes<kRows, 1>(header.codes, lines, a, t.step, sums, ahead);
      line = header.codes + lines * kLineBytes;
      for (int r = 0; r < kRows; ++r) {
        const Ints sum = bits(load(reinterpret_cast<const float*>(sums + r * kLanes)));
        float* const acc = t.acc[0] + r * kLanes;
        store(acc, add_group<Kind>(load(acc), sum, header.scale, header.offset, t.x, g * t.step + r));
      }
    }
    for (int r = 0; r < kRows; ++r) {
      float* const acc = t.acc[0] + r * kLanes;
      store(acc, end_groups<Kind>(load(acc), t.row_scale, r));
    }
  }
};
#endif

template <int kBits, class Kind, int kUnits>
void run_tile(const MatmulArgs& p, const SlabPair& slabs, RowTile tile, Sums& sums) {
  const WeightFormat& f = p.weight.format;
  const int64_t groups = p.x.groups();
  const MostRows most{Tile<kBits, Kind, kUnits, 1>::kMostRows, rows_of_two_slabs(f.group)};
  each_part(slabs, tile, slabs.warm, most, [&](RowTile part, int64_t s, auto together) {
    constexpr int kSlabs = decltype(together)::value;
    const TileArgs args{.slab = {slabs.data[s], slabs.data[s + kSlabs - 1]},
                        .data = p.x.place(tile, part.first, 0),
                        .x = RowGroups(p.x, tile.first * groups + part.first),
                        .row_scale = Kind::kPowers ? p.x.row_scale + tile.first + part.first : nullptr,
                        .step = tile.rows,
                        .groups = groups,
                        .units_per_group = f.group / kUnit,
                        .f32_header = f.scale == ScaleType::kF32,
                        .acc = {sums[s] + part.first * kLanes, sums[s + kSlabs - 1] + part.first * kLanes}};
    using Part = Tile<kBits, Kind, kUnits, kSlabs>;
    run_rows<Part, Part::kMostRows>(part.rows, p.far_prefetch, args);
  });
}

}  // namespace

void integer_tile(const MatmulArgs& p, const SlabPair& slabs, RowTile tile, Sums& sums) {
  const WeightFormat& f = p.weight.format;
  with_group_kind(f, [&](auto kind) {
    using Kind = decltype(kind);
    constexpr int kOne = Kind::kOffset == Offset::kNone ? 0 : 1;  // symmetric i4 in groups of 32 has powers of two
    if constexpr (Kind::kPowers) {
      run_tile<4, Kind, 1>(p, slabs, tile, sums);
    } else if (f.bits == 8) {
      f.group > kUnit ? run_tile<8, Kind, 0>(p, slabs, tile, sums) : run_tile<8, Kind, 1>(p, slabs, tile, sums);
    } else {
      f.group > kUnit ? run_tile<4, Kind, 0>(p, slabs, tile, sums) : run_tile<4, Kind, kOne>(p, slabs, tile, sums);
    }
  });
}

}  // namespace jiffy::JIFFY_ISA
