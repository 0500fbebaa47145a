// x w^T with float weights, summed in f32: a chain of additions for each fixed segment of k, segments in order.
//
// bf16: one line holds a pair of k for 16 outputs. An instruction that adds both products to an f32 rounds in its own
// way; widened to f32, the products are exact and each is added with an fma, the lower k first. So bits are equal
// within one way, and all that widen agree.
#include "kernels/cpu/matmul_tile.h"

namespace jiffy::JIFFY_ISA {
namespace {

constexpr int64_t kSegmentCols = 512;

// One row tile of bf16 activations, and the slabs that it meets.
struct PairArgs {
  const uint8_t* slab[2];
  const int8_t* data;  // [lines][step][4], from the first row in question
  int64_t step;        // rows of the whole tile
  int64_t lines;
  float* acc[2];  // [rows][16]
};

// One chain of additions a row, so that 12 rows meet two slabs in 24 registers; totals stay in memory. A single row
// then waits for the six cycles of vdpbf16ps: a Zen 5 core reads its weights at 40 GB/s from memory, with two chains at
// 41, but at 50 from cache, with two at 97. Two cold slabs at once are no answer: a Zen 4 core then reads 70 GB/s
// instead of 42 from cache, but 26.6 instead of 28.6 from memory, even where the next two are asked for in one
// sequence.
template <bool kNative, int kSlabs>
struct PairTile {
  template <int kRows, bool kFar>
  static void run(const PairArgs& t) {
    const int8_t* a = t.data;
    for (int s = 0; s < kSlabs; ++s) {
      for (int r = 0; r < kRows; ++r) store(t.acc[s] + r * kLanes, zeros());
    }
    for (int64_t begin = 0; begin < t.lines; begin += kSegmentCols / 2) {
      const int64_t end = smaller(t.lines, begin + kSegmentCols / 2);
      Floats part[kSlabs][kRows];
      for (auto& of_slab : part) {
        for (Floats& f : of_slab) f = zeros();
      }
      for (int64_t line = begin; line < end; ++line, a += 4 * t.step) add_line<kFar>(part, t, line, a);
      for (int s = 0; s < kSlabs; ++s) {
        for (int r = 0; r < kRows; ++r) {
          float* const acc = t.acc[s] + r * kLanes;
          store(acc, add(load(acc), part[s][r]));
        }
      }
    }
  }

  template <bool kFar, int kRows>
  static void add_line(Floats (&part)[kSlabs][kRows], const PairArgs& t, int64_t line, const int8_t* a) {
    Codes w[kSlabs];
    for (int s = 0; s < kSlabs; ++s) {
      prefetch_weights<kRows, kFar>(t.slab[s] + line * kLineBytes);
      w[s] = load_codes(t.slab[s] + line * kLineBytes);
    }
    for (int r = 0; r < kRows; ++r) {
      const auto pair = four_bytes<kSlabs>(a + 4 * r);
      for (int s = 0; s < kSlabs; ++s) dot_pairs<kNative>(part[s][r], w[s], pair);
    }
  }
};

// A row tile of f32 activations, and the slabs that it meets.
struct FloatArgs {
  const float* slab[2];
  const float* x;  // [rows][cols]
  int64_t cols;
  float* acc[2];  // [rows][16]
};

// Two slabs share the broadcasts of a tile: one slab's loads keep the multiply-adds waiting (BERT-base, 32 x 32 tokens:
// 57 % of the peak).
template <int kSlabs>
struct FloatTile {
  template <int kRows, bool kFar>
  static void run(const FloatArgs& t) {
    for (int s = 0; s < kSlabs; ++s) {
      for (int r = 0; r < kRows; ++r) store(t.acc[s] + r * kLanes, zeros());
    }
    for (int64_t begin = 0; begin < t.cols; begin += kSegmentCols) {
      const int64_t end = smaller(t.cols, begin + kSegmentCols);
      Floats part[kSlabs][kRows];
      for (auto& of_slab : part) {
        for (Floats& f : of_slab) f = zeros();
      }
      for (int64_t k = begin; k < end; ++k) add_column<kFar>(part, t, k);
      for (int s = 0; s < kSlabs; ++s) {
        for (int r = 0; r < kRows; ++r) {
          float* const acc = t.acc[s] + r * kLanes;
          store(acc, add(load(acc), part[s][r]));
        }
      }
    }
  }

  template <bool kFar, int kRows>
  static void add_column(Floats (&part)[kSlabs][kRows], const FloatArgs& t, int64_t k) {
    Floats w[kSlabs];
    for (int s = 0; s < kSlabs; ++s) {
      w[s] = load(t.slab[s] + k * kLanes);
      prefetch_weights<kRows, kFar>(reinterpret_cast<const uint8_t*>(t.slab[s] + k * kLanes));
    }
    for (int r = 0; r < kRows; ++r) {
      const Floats x = splat(t.x[r * t.cols + k]);
      for (int s = 0; s < kSlabs; ++s) part[s][r] = fma(x, w[s], part[s][r]);
    }
  }
};

}  // namespace

void bf16_tile(const MatmulArgs& p, const SlabPair& slabs, RowTile tile, Sums& sums) {
  each_part(slabs, tile, slabs.warm, {}, [&](RowTile part, int64_t s, auto together) {
    constexpr int kSlabs = decltype(together)::value;
    const PairArgs args{.slab = {slabs.data[s], slabs.data[s + kSlabs - 1]},
                        .data = p.x.place(tile, part.first, 0),
                        .step = tile.rows,
                        .lines = p.x.groups(),
                        .acc = {sums[s] + part.first * kLanes, sums[s + kSlabs - 1] + part.first * kLanes}};
    if (p.native_pairs) {
      run_rows<PairTile<kHasNativePairs, kSlabs>>(part.rows, p.far_prefetch, args);
    } else {
      run_rows<PairTile<false, kSlabs>>(part.rows, p.far_prefetch, args);
    }
  });
}

// One or two rows wait for memory, in one stream.
void f32_tile(const MatmulArgs& p, const SlabPair& slabs, RowTile tile, Sums& sums) {
  each_part(slabs, tile, tile.rows > 2, {}, [&](RowTile part, int64_t s, auto together) {
    constexpr int kSlabs = decltype(together)::value;
    const FloatArgs args{.slab = {reinterpret_cast<const float*>(slabs.data[s]),
                                  reinterpret_cast<const float*>(slabs.data[s + kSlabs - 1])},
                         .x = p.x_f32 + (tile.first + part.first) * p.weight.cols,
                         .cols = p.weight.cols,
                         .acc = {sums[s] + part.first * kLanes, sums[s + kSlabs - 1] + part.first * kLanes}};
    run_rows<FloatTile<kSlabs>>(part.rows, p.far_prefetch, args);
  });
}

}  // namespace jiffy::JIFFY_ISA
