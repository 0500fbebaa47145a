// Scores and weighted sums over int8 keys and values. Queries are int8 with one scale a row, so scores are exact
// integers times two scales. Probabilities times the values' scales are quantised to 7 bits a row and tile (8 bits are
// no better, docs/design.md), and summed exactly; one FMA a tile takes the sum over to f32. Included inside no
// namespace.
#pragma once

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/int8_grid.h"

namespace jiffy::JIFFY_ISA {
namespace {

constexpr int kQuad = 4;                                          // codes in a lane of a line
constexpr int kColVectors = kRowsAtOnce == kMaxTileRows ? 2 : 1;  // of values that share a pass over probabilities

// The dot products' sum without what the bias of 128 in the cache's codes added.
inline Ints without_bias(Ints dot, int32_t sum_of_codes) {
  return kBytesBiased ? add(dot, splat(-128 * sum_of_codes)) : dot;
}

void quantize_queries(const AttentionArgs& p, const Scratch& s) {
  for (int64_t r = 0; r < p.rows; ++r) {
    const Int8Row row = quantize_lanes(s.q + r * s.width, s.width, s.q_codes + r * s.width);
    s.q_scale[r] = row.scale;
    s.q_sum[r] = row.sum;
  }
}

// scores[first : first + kRows, at : at + 32] of one block.
template <int kRows>
void score_block(const AttentionArgs& p, const Scratch& s, int64_t first, int64_t position, float* scores) {
  constexpr int kVectors = kBlockSize / kLanes;
  const uint8_t* line = p.kv.keys(position);
  const int8_t* q = s.q_codes + first * s.width;
  Ints dots[kRows][kVectors];
  for (auto& row : dots) {
    for (Ints& dot : row) dot = splat(int32_t{0});
  }
  for (int64_t d = 0; d < p.kv.head_dim; d += kQuad, line += kVectors * kLineBytes) {
    Codes keys[kVectors];
    for (int v = 0; v < kVectors; ++v) keys[v] = load_codes(line + v * kLineBytes);
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) dot_bytes(dots[r][v], keys[v], q + r * s.width + d);
    }
  }
  const float* scales = p.kv.key_scales(position);
  for (int r = 0; r < kRows; ++r) {
    const Floats q_scale = splat(s.q_scale[first + r]);
    for (int v = 0; v < kVectors; ++v) {
      const Floats dot = to_floats(without_bias(dots[r][v], s.q_sum[first + r]));
      store(scores + (first + r) * kAttentionTile + v * kLanes, mul(dot, mul(q_scale, load(scales + v * kLanes))));
    }
  }
}

void score_int8(const AttentionArgs& p, const Scratch& s, const Tile& tile) {
  for (int64_t at = 0; at < tile.present; at += kBlockSize) {
    in_row_groups(p.rows,
                  [&]<int kRows>(int64_t first) { score_block<kRows>(p, s, first, tile.begin + at, s.scores + at); });
  }
}

// Probabilities times the scales of the values that they meet, as codes; zero outside of what the row sees, whatever
// scale stands there.
int32_t quantize_probabilities(const AttentionArgs& p, const Scratch& s, const Tile& tile, int64_t row) {
  alignas(64) float weighted[kAttentionTile];
  const float* probabilities = s.scores + row * kAttentionTile;
  for (int64_t at = 0; at < kAttentionTile; at += kLanes) {
    if (at >= tile.present) {
      store(weighted + at, zeros());
      continue;
    }
    const float* scales = p.kv.value_scales(tile.begin + at) + at % kBlockSize;
    const Floats product = mul(load(probabilities + at), load(scales));
    store(weighted + at, keep_seen(p, row, tile.begin + at, product, zeros()));
  }
  const Int8Row codes = quantize_lanes(weighted, kAttentionTile, s.p_codes + row * kAttentionTile);
  s.p_scale[row] = codes.scale;
  return codes.sum;
}

// acc[first : first + kRows, col : col + 16 * kVectors] += the tile's weighted sum
template <int kRows, int kVectors>
void accumulate_cols(const AttentionArgs& p, const Scratch& s, const Tile& tile, int64_t first, int64_t col,
                     const int32_t* sums) {
  Ints dots[kRows][kVectors];
  for (auto& row : dots) {
    for (Ints& dot : row) dot = splat(int32_t{0});
  }
  const int8_t* codes = s.p_codes + first * kAttentionTile;
  for (int64_t at = 0; at < tile.present; at += kBlockSize) {
    const uint8_t* line = p.kv.values(tile.begin + at) + col * kQuad;
    for (int64_t t = at; t < at + kBlockSize; t += kQuad, line += s.width * kQuad) {
      Codes values[kVectors];
      for (int v = 0; v < kVectors; ++v) values[v] = load_codes(line + v * kLineBytes);
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) dot_bytes(dots[r][v], values[v], codes + r * kAttentionTile + t);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    const Floats scale = splat(s.p_scale[first + r]);
    for (int v = 0; v < kVectors; ++v) {
      float* acc = s.segment.acc + (first + r) * s.width + col + v * kLanes;
      store(acc, fma(to_floats(without_bias(dots[r][v], sums[first + r])), scale, load(acc)));
    }
  }
}

void accumulate_int8(const AttentionArgs& p, const Scratch& s, const Tile& tile) {
  int32_t sums[kAttentionRows];
  for (int64_t r = 0; r < p.rows; ++r) sums[r] = quantize_probabilities(p, s, tile, r);
  in_row_groups(p.rows, [&]<int kRows>(int64_t first) {
    int64_t col = 0;
    for (; s.width - col >= kColVectors * kLanes; col += kColVectors * kLanes) {
      accumulate_cols<kRows, kColVectors>(p, s, tile, first, col, sums);
    }
    if (col < s.width) accumulate_cols<kRows, 1>(p, s, tile, first, col, sums);
  });
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
