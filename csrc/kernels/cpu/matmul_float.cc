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

// A row tile of f32 activations, and the slab that it meets.
struct FloatArgs {
  const float* slab;
  const float* x;  // [rows][cols]
  int64_t cols;
  float* acc;  // [rows][16]
};

struct FloatTile {
  template <int kRows, bool kFar>
  static void run(const FloatArgs& t) {
    Floats total[kRows];
    for (Floats& f : total) f = zeros();
    for (int64_t begin = 0; begin < t.cols; begin += kSegmentCols) {
      const int64_t end = smaller(t.cols, begin + kSegmentCols);
      Floats part[kRows];
      for (Floats& f : part) f = zeros();
      for (int64_t k = begin; k < end; ++k) {
        const Floats w = load(t.slab + k * kLanes);
        prefetch_weights<kRows, kFar>(reinterpret_cast<const uint8_t*>(t.slab + k * kLanes));
        for (int r = 0; r < kRows; ++r) part[r] = fma(splat(t.x[r * t.cols + k]), w, part[r]);
      }
      for (int r = 0; r < kRows; ++r) total[r] = add(total[r], part[r]);
    }
    for (int r = 0; r < kRows; ++r) store(t.acc + r * kLanes, total[r]);
  }
};

}  // namespace

void bf16_tile(const MatmulArgs& p, const PackedMatrix& w, int64_t slab, int64_t first, int64_t rows, float* acc) {
  for (int64_t done = 0; done < rows;) {
    const int64_t now = smaller(rows - done, kRowsAtOnce);
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

void f32_tile(const MatmulArgs& p, const PackedMatrix& w, int64_t slab, int64_t first, int64_t rows, float* acc) {
  const float* weights = reinterpret_cast<const float*>(w.data + slab * w.slab_stride);
  for (int64_t done = 0; done < rows;) {
    const int64_t now = smaller(rows - done, kRowsAtOnce);
    run_rows<FloatTile>(now, p.far_prefetch,
                        FloatArgs{weights, p.x_f32 + (first + done) * w.cols, w.cols, acc + done * kLanes});
    done += now;
  }
}

}  // namespace jiffy::JIFFY_ISA
