// Attention over int8 keys and values. Queries are int8 with one scale a row, so scores are exact integers times two
// scales. Probabilities times the values' scales are quantised to 7 bits a row and tile (8 bits are no better,
// docs/design.md), and summed exactly; one FMA a tile takes the sum over to f32. Included inside no namespace.
#pragma once

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/int8_grid.h"

namespace jiffy::JIFFY_ISA {
namespace {

constexpr int kTileVectors = kAttentionTile / kLanes;
constexpr int64_t kTiles = kSegment / kAttentionTile;
constexpr int64_t kQuads = kBlockSize / 4;  // steps of a block's values
static_assert(kTileVectors == 4 && kTiles <= kLanes);

struct KeyCodes {
  using Sum = Ints;
  using Line = Codes;
  static constexpr int64_t kStepBytes = 4;
  static constexpr int kMostRows = kWideFile ? kGroupRows : 4;
  static Line line(const uint8_t* p) { return load_codes(p); }
  static const int8_t* element(const uint8_t* a) { return reinterpret_cast<const int8_t*>(a); }
  static void add_product(Sum& sum, const Line& b, const int8_t* a) { dot_bytes(sum, b, a); }
};
struct ValueCodes : KeyCodes {
  static FourCodes element(const uint8_t* a) { return splat_four(a); }
  static void add_product(Sum& sum, const Line& b, FourCodes a) { dot_signed(sum, b, a); }
};

inline void load_int8_query(const AttentionArgs& p, const Scratch& s, int64_t r) {
  alignas(64) float x[kMaxHeadDim];
  const float sign = p.scale < 0.0f ? -1.0f : 1.0f;
  for (int64_t i = 0; i < s.width; i += kLanes) {
    store(x + i, mul(load_first(p.q[r] + i, static_cast<int>(smaller(kLanes, p.kv.head_dim - i))), splat(sign)));
  }
  const Int8Row row = quantize_lanes(x, s.width, reinterpret_cast<int8_t*>(s.q + r * kRowFloats));
  s.q_sum[r] = row.sum;
  s.exponent[r] = row.scale * (p.scale * sign * 0x1.715476p0f);
}

// Scores lack the row's scale, which stands in its exponent.
inline void score_int8(const AttentionArgs& p, const Scratch& s, const Group& g) {
  for (int64_t block = g.first_block(); block < g.end_block(); ++block) {
    const int64_t position = g.start + block * kBlockSize;
    const uint8_t* keys = p.kv.keys(position);
    const uint8_t* ahead = ahead_of_keys(p, g, block, keys);
    const float* scales = p.kv.key_scales(position);
    in_row_groups<KeyCodes::kMostRows>(g.rows, [&]<int kRows>(int64_t first) {
      const int64_t row = g.first_row + first;
      float* scores = s.weights + first * kRowFloats + block * kBlockSize;
      for (int at = 0; at < 2; at += kPanelVectors) {
        Ints sums[kRows][kPanelVectors];
        for (int r = 0; r < kRows; ++r) {
          for (Ints& sum : sums[r]) sum = splat(kBytesBiased ? -128 * s.q_sum[row + r] : 0);
        }
        panel<KeyCodes>(sums, {.a = reinterpret_cast<const uint8_t*>(s.q + row * kRowFloats),
                               .lines = keys + at * 64,
                               .ahead = ahead + at * 64,
                               .stride = kLinesBytes,
                               .steps = (p.kv.head_dim + 3) / 4});
        for (int v = 0; v < kPanelVectors; ++v) {
          const Floats scale = load(scales + (at + v) * kLanes);
          for (int r = 0; r < kRows; ++r) {
            store(scores + r * kRowFloats + (at + v) * kLanes, mul(to_floats(sums[r][v]), scale));
          }
        }
      }
    });
  }
}

// Multiplies a tile's probabilities with the scales of the values that they meet, zero where the row sees nothing,
// whatever scale stands there; returns the largest as bits, where NaN is largest.
inline int32_t weigh_tile(const AttentionArgs& p, const Group& g, const Seen& see, int64_t tile, float* row) {
  Ints largest = splat(int32_t{0});
  for (int v = 0; v < kTileVectors; ++v) {
    const int64_t at = tile * kAttentionTile + v * kLanes;
    if (see.none_of(at, kLanes)) {
      store(row + at, zeros());
      continue;
    }
    const float* scales = p.kv.value_scales(g.start + at) + at % kBlockSize;
    Floats x = mul(load(row + at), load(scales));
    if (!see.all_of(at, kLanes)) x = keep_seen(see, at, x, zeros());
    largest = max(largest, bits(x));
    store(row + at, x);
  }
  return max_lane(largest);
}

// Probabilities, weighted, become codes, which take the place of the row's beginning.
inline void quantize_weights(const AttentionArgs& p, const Scratch& s, const Group& g, int64_t r) {
  float* row = s.weights + r * kRowFloats;
  const Seen see = seen(p, g, r);
  const int64_t first = g.first_block() / 2, end = (g.end_block() + 1) / 2;
  alignas(64) float largest[kLanes] = {}, inverse[kLanes];
  for (int64_t tile = first; tile < end; ++tile) {
    const int32_t bits_of_largest = weigh_tile(p, g, see, tile, row);
    __builtin_memcpy(largest + tile, &bits_of_largest, 4);
  }
  const Floats top = load(largest);
  store(s.p_scale + r * kLanes, mul(top, splat(1.0f / 127.0f)));
  // What is too small to divide by counts as nothing. A NaN is in the scale, whatever the codes.
  store(inverse, div(splat(127.0f), max(top, splat(0x1p-118f))));
  int8_t* codes = reinterpret_cast<int8_t*>(row);
  for (int64_t tile = first; tile < end; ++tile) {
    const Floats factor = splat(inverse[tile]);
    Ints q[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) {
      q[v] = round_to_ints(mul(load(row + tile * kAttentionTile + v * kLanes), factor));
    }
    for (int v = 0; v < kTileVectors; ++v) store_low_bytes(codes + tile * kAttentionTile + v * kLanes, q[v]);
  }
}

template <int kRows, int kVectors>
void accumulate_codes(const AttentionArgs& p, const Scratch& s, const Group& g, int64_t first, int64_t col,
                      float* states) {
  const uint8_t* weights = reinterpret_cast<const uint8_t*>(s.weights + first * kRowFloats);
  float* acc = states + first * s.state + col;
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) store(acc + r * s.state + v * kLanes, zeros());
  }
  for (int64_t block = g.first_block(); block < g.end_block();) {
    const int64_t tile = block / 2;
    Ints sums[kRows][kVectors];
    for (auto& row : sums) {
      for (Ints& sum : row) sum = splat(int32_t{0});
    }
    for (; block < g.end_block() && block / 2 == tile; ++block) {
      const uint8_t* values = p.kv.values(g.start + block * kBlockSize);
      panel<ValueCodes>(sums, {.a = weights + block * kBlockSize,
                               .lines = values + col * 4,
                               .ahead = ahead_of_values(p, g, block, values) + col * 4,
                               .stride = s.width * 4,
                               .steps = kQuads});
    }
    for (int r = 0; r < kRows; ++r) {
      const Floats scale = splat(s.p_scale[(first + r) * kLanes + tile]);
      for (int v = 0; v < kVectors; ++v) {
        float* at = acc + r * s.state + v * kLanes;
        store(at, fma(to_floats(sums[r][v]), scale, load(at)));
      }
    }
  }
}

inline void accumulate_int8(const AttentionArgs& p, const Scratch& s, const Group& g, float* states) {
  for (int64_t r = 0; r < g.rows; ++r) quantize_weights(p, s, g, r);
  in_row_groups<ValueCodes::kMostRows>(g.rows, [&]<int kRows>(int64_t first) {
    in_cols<kValueVectors<kRows>>(
        s.width, [&]<int kVectors>(int64_t col) { accumulate_codes<kRows, kVectors>(p, s, g, first, col, states); });
  });
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
