// out[r] = softmax(scale * q[r] K^T over the positions [first[r], end[r])) V    rows that share a KV head
//
// Online softmax (Milakov and Gimelshein 2018; FlashAttention) over tiles of 64 positions, whose scores never leave L1.
// Each fixed segment of 512 absolute positions keeps its own (max, sum, acc); segments are merged in ascending order
// even though one call does them all, and a sliding window masks, it never moves borders: the order of every addition
// is a function of the position alone.
#include "kernels/cpu/attention_float.h"
#include "kernels/cpu/attention_int8.h"

namespace jiffy::JIFFY_ISA {
namespace {

Scratch lay_out(float* memory, int64_t width) {
  Scratch s;
  s.width = width;
  const auto take = [&memory](int64_t floats) {
    float* piece = memory;
    memory += kAttentionRows * floats;
    return piece;
  };
  s.q = take(width);
  s.segment.acc = take(width);
  s.whole.acc = take(width);
  s.scores = take(kAttentionTile);
  for (float** row : {&s.segment.max, &s.segment.sum, &s.whole.max, &s.whole.sum, &s.q_scale, &s.p_scale}) {
    *row = take(1);
  }
  s.q_sum = reinterpret_cast<int32_t*>(take(1));
  s.q_codes = reinterpret_cast<int8_t*>(take(width / 4));
  s.p_codes = reinterpret_cast<int8_t*>(take(kAttentionTile / 4));
  return s;
}

void load_queries(const AttentionArgs& p, const Scratch& s) {
  for (int64_t r = 0; r < p.rows; ++r) {
    for (int64_t i = 0; i < s.width; i += kLanes) {
      const int64_t left = p.kv.head_dim - i;
      const Floats x = load_first(p.q[r] + i, static_cast<int>(smaller(kLanes, left)));
      store(s.q + r * s.width + i, mul(x, splat(p.scale)));
    }
  }
}

void reset(const State& s, int64_t width) {
  store(s.max, splat(-__builtin_inff()));
  store(s.sum, zeros());
  for (int64_t i = 0; i < kAttentionRows * width; i += kLanes) store(s.acc + i, zeros());
}

void scale_row(float* row, int64_t width, float factor) {
  if (factor == 1.0f) return;
  for (int64_t i = 0; i < width; i += kLanes) store(row + i, mul(load(row + i), splat(factor)));
}

// Turns the scores of a tile into exp(score - max), updating max and sum, and rescales acc to the new max.
void softmax_tile(const AttentionArgs& p, const Scratch& s, const Tile& tile) {
  constexpr int kVectors = kAttentionTile / kLanes;
  static_assert(kVectors == 4);
  const Floats none = splat(-__builtin_inff());
  const State& state = s.segment;
  alignas(64) float new_max[kAttentionRows];
  store(new_max, load(state.max));
  for (int64_t r = 0; r < p.rows; ++r) {
    Floats largest = none;
    for (int v = 0; v < kVectors; ++v) {
      const Floats scores = load(s.scores + r * kAttentionTile + v * kLanes);
      largest = max(largest, keep_seen(p, r, tile.begin + v * kLanes, scores, none));
    }
    const float tile_max = max_lane(largest);
    if (tile_max > new_max[r]) new_max[r] = tile_max;
  }
  alignas(64) float factor[kAttentionRows];
  store(factor, exp(sub(load(state.max), load(new_max))));
  store(state.max, load(new_max));
  for (int64_t r = 0; r < p.rows; ++r) {
    float* row = s.scores + r * kAttentionTile;
    Floats e[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const Floats weight = exp(sub(load(row + v * kLanes), splat(new_max[r])));
      e[v] = keep_seen(p, r, tile.begin + v * kLanes, weight, zeros());
      store(row + v * kLanes, e[v]);
    }
    // A row that sees nothing here keeps acc and sum as they are; its probabilities are zero.
    if (p.end[r] <= tile.begin || p.first[r] >= tile.begin + kAttentionTile) continue;
    state.sum[r] = state.sum[r] * factor[r] + sum(add(add(e[0], e[1]), add(e[2], e[3])));
    scale_row(state.acc + r * s.width, s.width, factor[r]);
  }
}

// whole = merge(whole, segment)
void merge_segment(const AttentionArgs& p, const Scratch& s) {
  const Floats before = load(s.whole.max), here = load(s.segment.max), both = max(before, here);
  alignas(64) float keep[kAttentionRows], gain[kAttentionRows];
  store(keep, exp(sub(before, both)));
  store(gain, exp(sub(here, both)));
  store(s.whole.max, both);
  for (int64_t r = 0; r < p.rows; ++r) {
    if (s.segment.sum[r] == 0.0f) continue;  // nothing visible in this segment
    s.whole.sum[r] = s.whole.sum[r] * keep[r] + s.segment.sum[r] * gain[r];
    for (int64_t i = r * s.width; i < (r + 1) * s.width; i += kLanes) {
      const Floats kept = mul(load(s.whole.acc + i), splat(keep[r]));
      store(s.whole.acc + i, fma(load(s.segment.acc + i), splat(gain[r]), kept));
    }
  }
}

void write_out(const AttentionArgs& p, const Scratch& s) {
  for (int64_t r = 0; r < p.rows; ++r) {
    for (int64_t i = 0; i < p.kv.head_dim; i += kLanes) {
      const int n = static_cast<int>(smaller(kLanes, p.kv.head_dim - i));
      store_first(p.out[r] + i, div(load(s.whole.acc + r * s.width + i), splat(s.whole.sum[r])), n);
    }
  }
}

// What depends on the type of keys and values.
struct Arithmetic {
  void (*score)(const AttentionArgs&, const Scratch&, const Tile&);
  void (*accumulate)(const AttentionArgs&, const Scratch&, const Tile&);
};

Arithmetic arithmetic(KvType type) {
  switch (type) {
    case KvType::kF32:
      return {score_floats<float>, accumulate_floats<float>};
    case KvType::kBf16:
      return {score_floats<uint16_t>, accumulate_floats<uint16_t>};
    case KvType::kInt8:
      return {score_int8, accumulate_int8};
  }
  return {};
}

}  // namespace

void attention(const AttentionArgs& p) {
  const Scratch s = lay_out(p.scratch, padded_head_dim(p.kv.head_dim));
  const Arithmetic compute = arithmetic(p.kv.type);
  int64_t from = p.first[0], to = p.end[0];  // positions that any row sees
  for (int64_t r = 1; r < p.rows; ++r) {
    from = smaller(from, p.first[r]);
    to = p.end[r] > to ? p.end[r] : to;
  }
  load_queries(p, s);
  if (p.kv.type == KvType::kInt8) quantize_queries(p, s);
  reset(s.whole, s.width);
  for (int64_t position = from / kAttentionTile * kAttentionTile; position < to;) {
    reset(s.segment, s.width);
    const int64_t segment_end = smaller(to, (position / kSegment + 1) * kSegment);
    for (; position < segment_end; position += kAttentionTile) {
      const Tile tile{position, smaller(kAttentionTile, segment_end - position)};
      compute.score(p, s, tile);
      softmax_tile(p, s, tile);
      compute.accumulate(p, s, tile);
    }
    merge_segment(p, s);
  }
  write_out(p, s);
}

}  // namespace jiffy::JIFFY_ISA
