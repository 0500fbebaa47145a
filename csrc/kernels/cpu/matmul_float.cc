// x w^T with float weights, summed in f32: a chain of additions for each fixed segment of k, segments in order.
//
// bf16: one line holds a pair of k for 16 outputs. An instruction that adds both products to an f32 rounds in its own
// way; widened to f32, the products are exact and each is added with an fma, the lower k first. So bits are equal
// within one way, and all that widen agree.
#include "kernels/cpu/matmul_tile.h"

namespace jiffy::JIFFY_ISA {
namespace {

constexpr int64_t kSegmentCols = 512;

// One row tile of bf16 activations, and the slab that it meets.
struct PairArgs {
  const uint8_t* slab;
  const int8_t* data;  // [lines][step][4], from the first row in question
  int64_t step;        // rows of the whole tile
  int64_t lines;
  float* acc;  // [rows][16]
};

template <bool kNative>
struct PairTile {
  static constexpr int kMostRows = kRowsAtOnce;
  // Two chains, of every other line, hide the latency of the instruction when there are few rows; a widened pair is
  // four instructions a line and needs the registers. Totals stay in memory: 24 accumulators leave no room.
  static constexpr int kChains = kNative ? 2 : 1;

  template <int kRows, bool kFar>
  static void run(const PairArgs& t) {
    const uint8_t* line = t.slab;
    const int8_t* a = t.data;
    for (int r = 0; r < kRows; ++r) store(t.acc + r * kLanes, zeros());
    for (int64_t done = 0; done < t.lines; done += kSegmentCols / 2) {
      const uint8_t* const end = line + smaller(t.lines - done, kSegmentCols / 2) * kLineBytes;
      Floats part[kChains][kRows];
      for (auto& chain : part) {
        for (Floats& f : chain) f = zeros();
      }
      while (end - line >= kChains * kLineBytes) {
        for (auto& chain : part) add_line<kFar>(chain, t, line, a);
      }
      if (line < end) add_line<kFar>(part[0], t, line, a);
      for (int r = 0; r < kRows; ++r) {
        for (int c = 1; c < kChains; ++c) part[0][r] = add(part[0][r], part[c][r]);
        store(t.acc + r * kLanes, add(load(t.acc + r * kLanes), part[0][r]));
      }
    }
  }

  template <bool kFar, int kRows>
  static void add_line(Floats (&chain)[kRows], const PairArgs& t, const uint8_t*& line, const int8_t*& a) {
    prefetch_weights<kRows, kFar>(line);
    const Codes w = load_codes(line);
    for (int r = 0; r < kRows; ++r) dot_pairs<kNative>(chain[r], w, a + 4 * r);
    line += kLineBytes;
    a += 4 * t.step;
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
  static constexpr int kMostRows = kRowsAtOnce;

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

const float* floats(const PackedMatrix& w, int64_t slab) { return reinterpret_cast<const float*>(w.slab(slab)); }

// Two slabs at once where registers hold the sums of both, and more rows than two: those wait for memory, in one
// stream.
bool takes_two_slabs(int64_t rows) { return kRowsAtOnce == kMaxTileRows && rows > 2; }

// acc[s][0:rows][16] = x w^T for `slabs` slabs and the tile.
void multiply(const MatmulArgs& p, const float* const (&weights)[2], int64_t slabs, RowTile tile,
              float (&acc)[2][kMaxTileRows * kLanes]) {
  for (int64_t done = 0; done < tile.rows;) {
    const int64_t now = rows_of_pass<FloatTile<1>>(tile.rows - done), at = done * kLanes;
    const float* const x = p.x_f32 + (tile.first + done) * p.weight.cols;
    const FloatArgs args{{weights[0], weights[1]}, x, p.weight.cols, {acc[0] + at, acc[1] + at}};
    if constexpr (kRowsAtOnce == kMaxTileRows) {
      if (slabs == 2 && takes_two_slabs(p.rows)) run_rows<FloatTile<2>>(now, p.far_prefetch, args);
    }
    if (slabs == 1 || !takes_two_slabs(p.rows)) {
      for (int64_t s = 0; s < slabs; ++s) {
        run_rows<FloatTile<1>>(now, p.far_prefetch, FloatArgs{{weights[s]}, x, p.weight.cols, {acc[s] + at}});
      }
    }
    done += now;
  }
}

}  // namespace

void bf16_tile(const MatmulArgs& p, const PackedMatrix& w, int64_t slab, int64_t first, int64_t rows, float* acc) {
  for (int64_t done = 0; done < rows;) {
    const int64_t now = rows_of_pass<PairTile<false>>(rows - done);
    const PairArgs args{.slab = w.data + slab * w.slab_stride,
                        .data = p.x.place({first, rows}, done, 0),
                        .step = rows,
                        .lines = p.x.groups(),
                        .acc = acc + done * kLanes};
    if (p.native_pairs) {
      run_rows<PairTile<kHasNativePairs>>(now, p.far_prefetch, args);
    } else {
      run_rows<PairTile<false>>(now, p.far_prefetch, args);
    }
    done += now;
  }
}

void matmul_f32(const MatmulArgs& p) {
  const bool gated = p.up.data != nullptr;
  const int64_t at_once = !gated && takes_two_slabs(p.rows) ? 2 : 1;
  alignas(64) float acc[2][kMaxTileRows * kLanes];
  each_tile(p, kMaxTileRows * p.weight.cols * 4, at_once, [&](int64_t slab, int64_t slabs, RowTile tile) {
    if (gated) {
      multiply(p, {floats(p.weight, slab), floats(p.up, slab)}, 2, tile, acc);
      return finish_tile(p, slab, tile.first, tile.rows, acc[0], acc[1]);
    }
    multiply(p, {floats(p.weight, slab), floats(p.weight, slab + slabs - 1)}, slabs, tile, acc);
    for (int64_t s = 0; s < slabs; ++s) finish_tile(p, slab + s, tile.first, tile.rows, acc[s], nullptr);
  });
}

}  // namespace jiffy::JIFFY_ISA
