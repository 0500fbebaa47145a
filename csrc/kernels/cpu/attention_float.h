// Attention over f32 and bf16 keys and values. bf16 meets queries and probabilities rounded to bf16, by pairs, summed
// in f32: with vdpbf16ps where the CPU has it, elsewhere with the two fused multiply-adds that it does (simd/avx512.h),
// the elements widened. The bits are the same on every instruction set. Included inside no namespace.
#pragma once

#include "kernels/cpu/attention_tile.h"

namespace jiffy::JIFFY_ISA {
namespace {

inline const float* as_floats(const uint8_t* p) { return reinterpret_cast<const float*>(p); }

struct FloatDot {
  using Sum = Floats;
  using Line = Floats;
  static constexpr int64_t kStepBytes = 4;
  static constexpr int kMostRows = kWideFile ? kGroupRows : 6;
  static Line line(const uint8_t* p) { return load(as_floats(p)); }
  static Floats element(const uint8_t* a) { return splat(*as_floats(a)); }
  static void add_product(Sum& sum, Line b, Floats a) { sum = fma(a, b, sum); }
};

// Pairs of bf16 from rows of f32: elements kApart from each other meet a pair.
template <int kApart, int kStep>
struct WidePairDot {
  using Sum = Floats;
  struct Line {
    Floats low, high;
  };
  static constexpr int64_t kStepBytes = kStep * 4;
  static constexpr int kMostRows = kWideFile ? kGroupRows : 5;
  static Line line(const uint8_t* p) {
    const Codes pairs = load_codes(p);
    return {low_of_pairs(pairs), high_of_pairs(pairs)};
  }
  static Line element(const uint8_t* a) { return {splat(as_floats(a)[0]), splat(as_floats(a)[kApart])}; }
  static void add_product(Sum& sum, const Line& b, const Line& a) { sum = fma(a.low, b.low, fma(a.high, b.high, sum)); }
};

// What differs between f32 and the two ways to compute with bf16.
struct Float32 {
  using KeyDot = FloatDot;
  using ValueDot = FloatDot;
  static constexpr int64_t kKeyElements = 1;          // of the head's dimensions in a step
  static constexpr int64_t kSteps = kBlockSize;       // of a block's values
  static constexpr int64_t kBlockBytes = kSteps * 4;  // of a row's probabilities
  static void load_query(float* to, Floats x) { store(to, x); }
  static void put(float* row, int64_t block, Floats (&e)[2]) {
    for (int v = 0; v < 2; ++v) store(row + block * kBlockSize + v * kLanes, e[v]);
  }
  static const uint8_t* values(const AttentionArgs& p, const Scratch&, int64_t at, int64_t) { return p.kv.values(at); }
};

// Values of a block of which `present` positions are written: 0 for the others, whatever stands there.
inline const uint8_t* whole_pairs(const AttentionArgs& p, const Scratch& s, int64_t at, int64_t present) {
  if (present >= kBlockSize) return p.kv.values(at);
  const uint32_t* from = reinterpret_cast<const uint32_t*>(p.kv.values(at));
  uint32_t* to = reinterpret_cast<uint32_t*>(s.partial);
  for (int64_t i = 0; i < smaller(kLanes, present); ++i, from += s.width, to += s.width) {
    const uint32_t mask = i + kLanes < present ? 0xffffffff : 0xffff;
    for (int64_t d = 0; d < s.width; ++d) to[d] = from[d] & mask;
  }
  return s.partial;
}

struct WideBf16 {
  using KeyDot = WidePairDot<1, 2>;
  using ValueDot = WidePairDot<kLanes, 1>;
  static constexpr int64_t kKeyElements = 2;
  static constexpr int64_t kSteps = kBlockSize / 2;
  static constexpr int64_t kBlockBytes = kBlockSize * 4;
  static void load_query(float* to, Floats x) { store(to, nearest_bf16(x)); }
  static void put(float* row, int64_t block, Floats (&e)[2]) {
    for (int v = 0; v < 2; ++v) store(row + block * kBlockSize + v * kLanes, e[v] = round_to_bf16(e[v]));
  }
  static constexpr auto values = whole_pairs;
};

#ifdef JIFFY_NATIVE_PAIRS
struct PairDot {
  using Sum = Floats;
  using Line = Codes;
  static constexpr int64_t kStepBytes = 4;
  static constexpr int kMostRows = kGroupRows;
  static Line line(const uint8_t* p) { return load_codes(p); }
  static const int8_t* element(const uint8_t* a) { return reinterpret_cast<const int8_t*>(a); }
  static void add_product(Sum& sum, const Line& b, const int8_t* a) { dot_pairs(sum, b, a); }
};

struct NativeBf16 : WideBf16 {
  using KeyDot = PairDot;
  using ValueDot = PairDot;
  static constexpr int64_t kBlockBytes = kSteps * 4;
  static void put(float* row, int64_t block, Floats (&e)[2]) {
    for (Floats& x : e) x = round_to_bf16(x);
    store_pairs(reinterpret_cast<uint16_t*>(row) + block * kBlockSize, e[0], e[1]);
  }
};
#endif

template <class Kind>
void load_float_query(const AttentionArgs& p, const Scratch& s, int64_t r) {
  const float sign = p.scale < 0.0f ? -1.0f : 1.0f;
  float* row = s.q + r * kRowFloats;
  for (int64_t i = 0; i < s.width; i += kLanes) {
    const Floats x = mul(load_first(p.q[r] + i, static_cast<int>(smaller(kLanes, p.kv.head_dim - i))), splat(sign));
    if constexpr (Kind::KeyDot::kStepBytes == 4 && Kind::kKeyElements == 2) {
      store_bf16(reinterpret_cast<uint16_t*>(row) + i, x);
    } else {
      Kind::load_query(row + i, x);
    }
  }
  s.exponent[r] = p.scale * sign * 0x1.715476p0f;
}

template <class Kind>
void score_floats(const AttentionArgs& p, const Scratch& s, const Group& g) {
  using Dot = typename Kind::KeyDot;
  for (int64_t block = g.first_block(); block < g.end_block(); ++block) {
    const uint8_t* keys = p.kv.keys(g.start + block * kBlockSize);
    const uint8_t* ahead = ahead_of_keys(p, g, block, keys);
    in_row_groups<Dot::kMostRows>(g.rows, [&]<int kRows>(int64_t first) {
      const float* q = s.q + (g.first_row + first) * kRowFloats;
      float* scores = s.weights + first * kRowFloats + block * kBlockSize;
      const auto score_from = [&]<int kVectors>(int at) {
        Floats sums[kRows][kVectors];
        for (auto& row : sums) {
          for (Floats& sum : row) sum = zeros();
        }
        panel<Dot>(sums, {.a = reinterpret_cast<const uint8_t*>(q),
                          .lines = keys + at * 64,
                          .ahead = ahead + at * 64,
                          .stride = kLinesBytes,
                          .steps = (p.kv.head_dim + Kind::kKeyElements - 1) / Kind::kKeyElements});
        for (int r = 0; r < kRows; ++r) {
          for (int v = 0; v < kVectors; ++v) store(scores + r * kRowFloats + (at + v) * kLanes, sums[r][v]);
        }
      };
      // Nobody asks for scores of positions that no row sees.
      if (g.high - block * kBlockSize <= kLanes) return score_from.template operator()<1>(0);
      for (int at = 0; at < 2; at += kPanelVectors) score_from.template operator()<kPanelVectors>(at);
    });
  }
}

// Sums of the rows [first, first + kRows) of a group over the dimensions [col, col + 16 * kVectors).
template <class Kind, int kRows, int kVectors>
void accumulate_cols(const AttentionArgs& p, const Scratch& s, const Group& g, int64_t first, int64_t col,
                     float* states) {
  Floats sums[kRows][kVectors];
  for (auto& row : sums) {
    for (Floats& sum : row) sum = zeros();
  }
  const uint8_t* weights = reinterpret_cast<const uint8_t*>(s.weights + first * kRowFloats);
  for (int64_t block = g.first_block(); block < g.end_block(); ++block) {
    const int64_t present = g.high - block * kBlockSize;
    const uint8_t* values = Kind::values(p, s, g.start + block * kBlockSize, present);
    panel<typename Kind::ValueDot>(sums, {.a = weights + block * Kind::kBlockBytes,
                                          .lines = values + col * 4,
                                          .ahead = ahead_of_values(p, g, block, values) + col * 4,
                                          .stride = s.width * 4,
                                          .steps = smaller(Kind::kSteps, present)});
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) store(states + (first + r) * s.state + col + v * kLanes, sums[r][v]);
  }
}

template <class Kind>
void accumulate_floats(const AttentionArgs& p, const Scratch& s, const Group& g, float* states) {
  in_row_groups<Kind::ValueDot::kMostRows>(g.rows, [&]<int kRows>(int64_t first) {
    in_cols<kValueVectors<kRows>>(s.width, [&]<int kVectors>(int64_t col) {
      accumulate_cols<Kind, kRows, kVectors>(p, s, g, first, col, states);
    });
  });
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
