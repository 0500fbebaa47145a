// Scores and weighted sums over f32 or bf16 keys and values, in f32. bf16 is widened where it is read, so that its
// bits, too, are the same on every instruction set; vdpbf16ps would round sums in its own way. Included inside no
// namespace.
#pragma once

#include "kernels/cpu/attention_tile.h"

namespace jiffy::JIFFY_ISA {
namespace {

inline Floats load_element(const float* p) { return load(p); }
inline Floats load_element(const uint16_t* p) { return load_bf16(p); }

// c[r, 0 : 16 * kVectors] (+)= sum_i a[r, i] * b[i, 0 : 16 * kVectors], one FMA chain per element in ascending i
template <class Element>
struct PanelArgs {
  const float* a;
  const Element* b;
  float* c;
  int64_t a_stride, b_stride, c_stride;
  int64_t depth;
};

template <int kRows, int kVectors, class Element>
void panel(const PanelArgs<Element>& p, int64_t first, bool accumulate) {
  const float* a = p.a + first * p.a_stride;
  float* c = p.c + first * p.c_stride;
  Floats sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = accumulate ? load(c + r * p.c_stride + v * kLanes) : zeros();
  }
  for (int64_t i = 0; i < p.depth; ++i) {
    Floats b[kVectors];
    for (int v = 0; v < kVectors; ++v) b[v] = load_element(p.b + i * p.b_stride + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Floats x = splat(a[r * p.a_stride + i]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = fma(x, b[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) store(c + r * p.c_stride + v * kLanes, sums[r][v]);
  }
}

template <int kVectors, class Element>
void panels(const PanelArgs<Element>& p, int64_t rows, bool accumulate) {
  in_row_groups(rows, [&]<int kRows>(int64_t first) { panel<kRows, kVectors>(p, first, accumulate); });
}

// scores[r, 0:64] of the tile.
template <class Element>
void score_floats(const AttentionArgs& p, const Scratch& s, const Tile& tile) {
  for (int64_t at = 0; at < tile.present; at += kBlockSize) {
    panels<kBlockSize / kLanes, Element>({.a = s.q,
                                          .b = reinterpret_cast<const Element*>(p.kv.keys(tile.begin + at)),
                                          .c = s.scores + at,
                                          .a_stride = s.width,
                                          .b_stride = kBlockSize,
                                          .c_stride = kAttentionTile,
                                          .depth = p.kv.head_dim},
                                         p.rows, false);
  }
}

// acc[r,:] += probabilities[r,:] V over the tile.
template <class Element>
void accumulate_floats(const AttentionArgs& p, const Scratch& s, const Tile& tile) {
  for (int64_t at = 0; at < tile.present; at += kBlockSize) {
    const Element* values = reinterpret_cast<const Element*>(p.kv.values(tile.begin + at));
    for (int64_t col = 0; col < s.width; col += 2 * kLanes) {
      const PanelArgs<Element> args{.a = s.scores + at,
                                    .b = values + col,
                                    .c = s.segment.acc + col,
                                    .a_stride = kAttentionTile,
                                    .b_stride = s.width,
                                    .c_stride = s.width,
                                    .depth = smaller(kBlockSize, tile.present - at)};
      if (s.width - col >= 2 * kLanes) {
        panels<2>(args, p.rows, true);
      } else {
        panels<1>(args, p.rows, true);
      }
    }
  }
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
