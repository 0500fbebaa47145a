// out[r] = softmax(scale * q[r] K^T over the positions [0, visible[r])) V    rows that share a KV head, f32 keys and
// values
//
// Online softmax (Milakov and Gimelshein 2018; FlashAttention) over tiles of 64 positions, whose scores never leave L1.
// Each fixed segment of 512 absolute positions keeps its own (max, sum, acc); segments are merged in ascending order
// even though one call does them all: the order of every addition is a function of the position alone.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {
namespace {

// c[r, 0 : 16 * kVectors] (+)= sum_i a[r, i] * b[i, 0 : 16 * kVectors], one FMA chain per element in ascending i
struct PanelArgs {
  const float* a;
  const float* b;
  float* c;
  int64_t a_stride, b_stride, c_stride;
  int64_t depth;
};

template <int kRows, int kVectors>
void panel(const PanelArgs& p, bool accumulate) {
  Floats sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = accumulate ? load(p.c + r * p.c_stride + v * kLanes) : zeros();
  }
  for (int64_t i = 0; i < p.depth; ++i) {
    Floats b[kVectors];
    for (int v = 0; v < kVectors; ++v) b[v] = load(p.b + i * p.b_stride + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Floats a = splat(p.a[r * p.a_stride + i]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = fma(a, b[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) store(p.c + r * p.c_stride + v * kLanes, sums[r][v]);
  }
}

// All rows of a panel, a few at a time: 8 rows fill the 32 registers of AVX-512, 3 those of AVX2.
template <int kVectors>
void panels(PanelArgs p, int64_t rows, bool accumulate) {
  constexpr int kMany = kRowsAtOnce == kMaxTileRows ? 8 : 3;
  for (int64_t r = 0; r < rows;) {
    int64_t now = 1;
    if (rows - r >= kMany) {
      panel<kMany, kVectors>(p, accumulate);
      now = kMany;
    } else if (rows - r >= 3) {
      panel<3, kVectors>(p, accumulate);
      now = 3;
    } else {
      panel<1, kVectors>(p, accumulate);
    }
    p.a += now * p.a_stride;
    p.c += now * p.c_stride;
    r += now;
  }
}

// Softmax state of up to 16 rows: lanes are rows.
struct State {
  float* max;  // [kAttentionRows]
  float* sum;  // [kAttentionRows]
  float* acc;  // [kAttentionRows, width]
};

struct Scratch {
  float* q;       // [kAttentionRows, width], already times scale
  float* scores;  // [kAttentionRows, kAttentionTile]
  State segment, whole;
  int64_t width;  // padded head_dim
};

Scratch lay_out(float* memory, int64_t width) {
  Scratch s;
  s.width = width;
  s.q = memory;
  s.segment.acc = s.q + kAttentionRows * width;
  s.whole.acc = s.segment.acc + kAttentionRows * width;
  s.scores = s.whole.acc + kAttentionRows * width;
  s.segment.max = s.scores + kAttentionRows * kAttentionTile;
  s.segment.sum = s.segment.max + kAttentionRows;
  s.whole.max = s.segment.sum + kAttentionRows;
  s.whole.sum = s.whole.max + kAttentionRows;
  return s;
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

// scores[r, 0:64] of the tile that starts at `position`, of which `present` positions are stored.
void score_tile(const AttentionArgs& p, const Scratch& s, int64_t position, int64_t present) {
  for (int64_t at = 0; at < present; at += kBlockSize) {
    const int32_t block = p.kv.block_table[(position + at) / kBlockSize];
    panels<kBlockSize / kLanes>({.a = s.q,
                                 .b = p.kv.keys + block * p.kv.block_stride,
                                 .c = s.scores + at,
                                 .a_stride = s.width,
                                 .b_stride = kBlockSize,
                                 .c_stride = kAttentionTile,
                                 .depth = p.kv.head_dim},
                                p.rows, false);
  }
}

// Turns the scores of a tile into exp(score - max), updating max and sum, and rescales acc to the new max.
void softmax_tile(const AttentionArgs& p, const Scratch& s, int64_t position) {
  constexpr int kVectors = kAttentionTile / kLanes;
  const Floats none = splat(-__builtin_inff());
  const State& state = s.segment;
  alignas(64) float new_max[kAttentionRows];
  store(new_max, load(state.max));
  for (int64_t r = 0; r < p.rows; ++r) {
    const int64_t valid = p.visible[r] - position;
    Floats largest = none;
    for (int v = 0; v < kVectors && v * kLanes < valid; ++v) {
      const int n = static_cast<int>(smaller(kLanes, valid - v * kLanes));
      largest = max(largest, keep_first(load(s.scores + r * kAttentionTile + v * kLanes), n, none));
    }
    const float tile_max = max_lane(largest);
    if (tile_max > new_max[r]) new_max[r] = tile_max;
  }
  alignas(64) float factor[kAttentionRows];
  store(factor, exp(sub(load(state.max), load(new_max))));
  store(state.max, load(new_max));
  for (int64_t r = 0; r < p.rows; ++r) {
    const int64_t valid = p.visible[r] - position;
    float* row = s.scores + r * kAttentionTile;
    Floats e[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const int64_t left = valid - v * kLanes;
      const int n = left <= 0 ? 0 : static_cast<int>(smaller(kLanes, left));
      e[v] = keep_first(exp(sub(load(row + v * kLanes), splat(new_max[r]))), n, zeros());
      store(row + v * kLanes, e[v]);
    }
    if (valid <= 0) continue;  // acc and sum stay as they are; the probabilities are zero
    static_assert(kVectors == 4);
    state.sum[r] = state.sum[r] * factor[r] + sum(add(add(e[0], e[1]), add(e[2], e[3])));
    scale_row(state.acc + r * s.width, s.width, factor[r]);
  }
}

// acc[r,:] += probabilities[r,:] V over the stored positions of the tile.
void accumulate_tile(const AttentionArgs& p, const Scratch& s, int64_t position, int64_t present) {
  for (int64_t at = 0; at < present; at += kBlockSize) {
    const int32_t block = p.kv.block_table[(position + at) / kBlockSize];
    for (int64_t col = 0; col < s.width; col += 2 * kLanes) {
      const PanelArgs panel_args{.a = s.scores + at,
                                 .b = p.kv.values + block * p.kv.block_stride + col,
                                 .c = s.segment.acc + col,
                                 .a_stride = kAttentionTile,
                                 .b_stride = s.width,
                                 .c_stride = s.width,
                                 .depth = smaller(kBlockSize, present - at)};
      if (s.width - col >= 2 * kLanes) {
        panels<2>(panel_args, p.rows, true);
      } else {
        panels<1>(panel_args, p.rows, true);
      }
    }
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

void load_queries(const AttentionArgs& p, const Scratch& s) {
  for (int64_t r = 0; r < p.rows; ++r) {
    for (int64_t i = 0; i < p.kv.head_dim; i += kLanes) {
      const int n = static_cast<int>(smaller(kLanes, p.kv.head_dim - i));
      store(s.q + r * s.width + i, mul(load_first(p.q[r] + i, n), splat(p.scale)));
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

}  // namespace

void attention(const AttentionArgs& p) {
  const Scratch s = lay_out(p.scratch, p.kv.padded_head_dim);
  int64_t visible = 0;
  for (int64_t r = 0; r < p.rows; ++r) visible = p.visible[r] > visible ? p.visible[r] : visible;
  load_queries(p, s);
  reset(s.whole, s.width);
  for (int64_t begin = 0; begin < visible; begin += kSegment) {
    reset(s.segment, s.width);
    const int64_t end = smaller(visible, begin + kSegment);
    for (int64_t position = begin; position < end; position += kAttentionTile) {
      const int64_t present = smaller(kAttentionTile, end - position);
      score_tile(p, s, position, present);
      softmax_tile(p, s, position);
      accumulate_tile(p, s, position, present);
    }
    merge_segment(p, s);
  }
  write_out(p, s);
}

void kv_write(const KvWriteArgs& p) {
  for (int64_t r = p.begin; r < p.end; ++r) {
    const int64_t position = p.position + r - p.begin, token = position % kBlockSize;
    const int64_t block = p.kv.block_table[position / kBlockSize] * p.kv.block_stride;
    float* keys = p.kv.keys + block + token;
    for (int64_t d = 0; d < p.kv.head_dim; ++d) keys[d * kBlockSize] = p.k[r * p.stride + d];
    float* values = p.kv.values + block + token * p.kv.padded_head_dim;
    for (int64_t d = 0; d < p.kv.head_dim; ++d) values[d] = p.v[r * p.stride + d];
  }
}

}  // namespace jiffy::JIFFY_ISA
