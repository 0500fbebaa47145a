// x w^T with float weights, summed in f32: a chain of additions for each fixed segment of k, segments in order.
//
// bf16: one line holds a pair of k for 16 outputs. An instruction that adds both products to an f32 rounds in its own
// way; widened to f32, the products are exact and each is added with an fma, the higher k first. So bits are equal
// within one way, and all that widen agree.
#include "kernels/cpu/matmul_tile.h"

namespace jiffy::JIFFY_ISA {
namespace {

constexpr int64_t kSegmentCols = 512;

// One row tile of activations, and the slabs that it meets.
struct TileArgs {
  const uint8_t* slab[2] = {};
  const float* x = nullptr;  // f32, or pairs of bf16; from the first row in question
  int64_t step;              // of f32 from row to row, of pairs from column to column
  int64_t lines;
  float* acc[2] = {};  // [rows][16]

  // Pairs of all rows for the columns 2 k and 2 k + 1. Addresses are computed from them, not from k.
  const int8_t* pairs(int64_t k) const { return once_more(reinterpret_cast<const int8_t*>(x + k * step)); }
};

template <int kSlabs, int kRows>
using Parts = Floats[kSlabs][kRows];

// part += f32 weights of one column . activations.
struct Column {
  static constexpr int64_t kCols = 1;

  template <int kSlabs, int kRows>
  static void add(Parts<kSlabs, kRows>& part, const TileArgs& t, int64_t k) {
    Floats w[kSlabs];
    for (int s = 0; s < kSlabs; ++s) w[s] = load(reinterpret_cast<const float*>(t.slab[s]) + k * kLanes);
    const float* const x_k = once_more(t.x + k);
    for (int r = 0; r < kRows; ++r) {
      const Floats x = splat(x_k[r * t.step]);
      for (int s = 0; s < kSlabs; ++s) part[s][r] = fma(x, w[s], part[s][r]);
    }
  }
};

// part += bf16 weights of two columns . activations, widened. With 16 registers first all of the higher column, whose
// weights then leave them: six rows of sums instead of four.
struct WidePairs {
  static constexpr int64_t kCols = 2;

  template <int kSlabs, int kRows>
  static void add(Parts<kSlabs, kRows>& part, const TileArgs& t, int64_t k) {
    const int8_t* const pairs = t.pairs(k);
    if constexpr (kTwoSlabs) {
      Codes w[kSlabs];
      for (int s = 0; s < kSlabs; ++s) w[s] = load_codes(t.slab[s] + k * kLineBytes);
      for (int r = 0; r < kRows; ++r) {
        const auto pair = four_bytes<2>(pairs + 4 * r);
        for (int s = 0; s < kSlabs; ++s) {
          add_high(part[s][r], high_of_pairs(w[s]), pair);
          add_low(part[s][r], low_of_pairs(w[s]), pair);
        }
      }
    } else {
      const uint8_t* const line = t.slab[0] + k * kLineBytes;
      const Floats high = high_of_pairs(load_codes(line));
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) add_high(part[0][r], high, pairs + 4 * r);
      const Floats low = low_of_pairs(load_codes(once_more(line)));
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) add_low(part[0][r], low, pairs + 4 * r);
    }
  }
};

#ifdef JIFFY_NATIVE_PAIRS
struct NativePairs {
  static constexpr int64_t kCols = 2;

  template <int kSlabs, int kRows>
  static void add(Parts<kSlabs, kRows>& part, const TileArgs& t, int64_t k) {
    const int8_t* const pairs = t.pairs(k);
    Codes w[kSlabs];
    for (int s = 0; s < kSlabs; ++s) w[s] = load_codes(t.slab[s] + k * kLineBytes);
    for (int r = 0; r < kRows; ++r) {
      const auto pair = four_bytes<kSlabs>(pairs + 4 * r);
      for (int s = 0; s < kSlabs; ++s) dot_pairs(part[s][r], w[s], pair);
    }
  }
};
#endif

// One chain of additions a row, so that 12 rows meet two slabs in 24 registers; totals stay in memory. A single row
// then waits for the six cycles of vdpbf16ps: a Zen 5 core reads its weights at 40 GB/s from memory, with two chains at
// 41, but at 50 from cache, with two at 97. Two cold slabs at once are no answer: a Zen 4 core then reads 70 GB/s
// instead of 42 from cache, but 26.6 instead of 28.6 from memory, even where the next two are asked for in one
// sequence.
template <class Line, int kSlabs>
struct SegmentTile {
  template <int kRows, bool kFar>
  static void run(const TileArgs& t) {
    for (int s = 0; s < kSlabs; ++s) {
      for (int r = 0; r < kRows; ++r) store(t.acc[s] + r * kLanes, zeros());
    }
    for (int64_t begin = 0; begin < t.lines; begin += kSegmentCols / Line::kCols) {
      const int64_t end = smaller(t.lines, begin + kSegmentCols / Line::kCols);
      Parts<kSlabs, kRows> part;
      for (auto& of_slab : part) {
        for (Floats& f : of_slab) f = zeros();
      }
      for (int64_t k = begin; k < end; ++k) {
        for (int s = 0; s < kSlabs; ++s) prefetch_weights<kRows, kFar>(t.slab[s] + k * kLineBytes);
        Line::add(part, t, k);
      }
      for (int s = 0; s < kSlabs; ++s) {
        for (int r = 0; r < kRows; ++r) {
          float* const acc = t.acc[s] + r * kLanes;
          store(acc, add(load(acc), part[s][r]));
        }
      }
    }
  }
};

// The rows of a tile in parts, each with one slab or two: x_at(row) is where the activations of a row begin.
template <class Line, class Place>
void run_tile(const MatmulArgs& p, const SlabPair& slabs, RowTile tile, bool together, TileArgs args, Sums& sums,
              Place&& x_at) {
  each_part(slabs, tile, together, {}, [&](RowTile part, int64_t s, auto both) {
    constexpr int kSlabs = decltype(both)::value;
    args.x = x_at(part.first);
    for (int i = 0; i < kSlabs; ++i) {
      args.slab[i] = slabs.data[s + i];
      args.acc[i] = sums[s + i] + part.first * kLanes;
    }
    run_rows<SegmentTile<Line, kSlabs>>(part.rows, p.far_prefetch, args);
  });
}

}  // namespace

void bf16_tile(const MatmulArgs& p, const SlabPair& slabs, RowTile tile, Sums& sums) {
  const auto run = [&]<class Line>(Line) {
    const TileArgs args{.step = tile.rows, .lines = p.x.groups()};
    const auto pairs_of = [&](int64_t row) { return reinterpret_cast<const float*>(p.x.place(tile, row, 0)); };
    run_tile<Line>(p, slabs, tile, slabs.warm, args, sums, pairs_of);
  };
#ifdef JIFFY_NATIVE_PAIRS
  if (p.native_pairs) return run(NativePairs{});
#endif
  run(WidePairs{});
}

// Two slabs share the broadcasts of a tile: one slab's loads keep the multiply-adds waiting (BERT-base, 32 x 32 tokens:
// 57 % of the peak). One or two rows wait for memory, in one stream.
void f32_tile(const MatmulArgs& p, const SlabPair& slabs, RowTile tile, Sums& sums) {
  const int64_t cols = p.weight.cols;
  run_tile<Column>(p, slabs, tile, tile.rows > 2, {.step = cols, .lines = cols}, sums,
                   [&](int64_t row) { return p.x_f32 + (tile.first + row) * cols; });
}

}  // namespace jiffy::JIFFY_ISA
