// What the parts of the attention kernel share: its scratch, rows of probabilities, and the panel that all products go
// through. Included inside no namespace.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {
namespace {

// Rows whose sums stand in registers together: with two vectors each they fill 24 of the 32 of AVX-512.
constexpr int kGroupRows = 12;
constexpr bool kWideFile = kRowsAtOnce == kMaxTileRows;  // 32 registers of 512 bits
constexpr int kPanelVectors = kWideFile ? 2 : 1;
// A row of queries or of probabilities. One distance for all keeps every operand at a constant offset from one
// register; 33 lines, so that rows don't fall into the same sets of the L1 cache.
constexpr int64_t kRowFloats = kSegment + kLanes;
constexpr int64_t kRowBytes = kRowFloats * 4;
constexpr int64_t kLinesBytes = 2 * 64;  // of the keys of a block that one step of a panel multiplies
static_assert(kMaxHeadDim <= kRowFloats && kBlockSize == 2 * kLanes);

struct Scratch {
  float* q;          // [kAttentionRows, kRowFloats], in the arithmetic's type
  float* weights;    // [kGroupRows, kRowFloats] scores, then probabilities in the arithmetic's type
  float* whole;      // [kAttentionRows, state] of the segments so far
  float* segment;    // [kGroupRows, state]
  float* exponent;   // [kAttentionRows] what a difference of scores is multiplied with to be an exponent of 2
  float* unit;       // [kAttentionRows]                  beside a bias: what turns products into exponents of 2
  int32_t* q_sum;    // [kAttentionRows]                  int8: of a row's codes
  float* p_scale;    // [kGroupRows, 16]                  int8: of each tile
  uint8_t* partial;  // [kBlockSize / 2, width, 2] bf16   values of a block that isn't full
  int64_t width, state;
};

// A row's softmax over a segment or several: acc[width], then
inline float& state_max(float* state, int64_t width) { return state[width]; }
inline float& state_sum(float* state, int64_t width) { return state[width + 1]; }

// Up to kGroupRows rows within a segment.
struct Group {
  int64_t first_row;
  int rows;
  int64_t start;      // the segment's first position
  int64_t low, high;  // what any row sees of it, from its start; low >= high: nothing
  int64_t first_block() const { return low / kBlockSize; }
  int64_t end_block() const { return (high + kBlockSize - 1) / kBlockSize; }
};

// What a row sees of a group's segment, from its start.
struct Seen {
  int64_t low, high;
  bool all_of(int64_t from, int64_t n) const { return low <= from && high >= from + n; }
  bool none_of(int64_t from, int64_t n) const { return high <= from || low >= from + n; }
};
inline Seen seen(const AttentionArgs& p, const Group& g, int64_t row) {
  const int64_t low = p.first[g.first_row + row] - g.start, high = p.end[g.first_row + row] - g.start;
  return {low > 0 ? low : 0, smaller(high, kSegment)};
}

// `x` for the 16 positions from `from` that the row sees, `rest` for the others.
inline Floats keep_seen(const Seen& see, int64_t from, Floats x, Floats rest) {
  const int64_t low = see.low - from, high = see.high - from;
  const int n_low = static_cast<int>(low <= 0 ? 0 : smaller(kLanes, low));
  const int n_high = static_cast<int>(high <= 0 ? 0 : smaller(kLanes, high));
  return keep_first(rest, n_low, keep_first(x, n_high, rest));
}

// Few rows take four vectors of values at a time: a line after the other, which hardware reads ahead (bf16, 4 rows from
// memory: 24 to 31 GB/s).
template <int kRows>
constexpr int kValueVectors = kWideFile && kRows <= 6 ? 4 : kPanelVectors;

// Calls body<n>(), n in 1..kMost.
template <int kMost, class Body>
void with_count(int64_t n, Body&& body) {
  if constexpr (kMost > 1) {
    if (n < kMost) return with_count<kMost - 1>(n, body);
  }
  body.template operator()<kMost>();
}

// Runs body<n>(first row) over all rows, as even as possible, at most kMost at a time.
template <int kMost, class Body>
void in_row_groups(int64_t rows, Body&& body) {
  for (int64_t r = 0; r < rows;) {
    const int64_t parts = (rows - r + kMost - 1) / kMost, n = (rows - r + parts - 1) / parts;
    with_count<kMost>(n, [&]<int kRows>() { body.template operator()<kRows>(r); });
    r += n;
  }
}

// Runs body<vectors>(col) over the columns of values, kMost vectors at a time, then half as many, then one.
template <int kMost, class Body>
void in_cols(int64_t width, Body&& body, int64_t col = 0) {
  for (; width - col >= kMost * kLanes; col += kMost * kLanes) body.template operator()<kMost>(col);
  if constexpr (kMost > 1) {
    if (col < width) in_cols<kMost / 2>(width, body, col);
  }
}

// sums[r][v] += steps of row r's `a` times lines, one chain per element in ascending order. `ahead`: the lines that
// are wanted soon, in the same places.
struct PanelArgs {
  const uint8_t* a;      // [rows, kRowBytes]
  const uint8_t* lines;  // [steps, stride]
  const uint8_t* ahead;
  int64_t stride, steps;
};
template <class Dot, int kRows, int kVectors>
inline __attribute__((always_inline)) void panel(typename Dot::Sum (&sums)[kRows][kVectors], const PanelArgs& p) {
  const uint8_t *a = p.a, *line = p.lines, *ahead = p.ahead;
  typename Dot::Sum chains[kRows][kVectors];  // a copy, which GCC 12 keeps in registers; sums it moves in every step
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) chains[r][v] = sums[r][v];
  }
  for (int64_t i = 0; i < p.steps; ++i, a += Dot::kStepBytes, line += p.stride, ahead += p.stride) {
    typename Dot::Line b[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      b[v] = Dot::line(line + v * 64);
      __builtin_prefetch(ahead + v * 64, 0, 2);
    }
    for (int r = 0; r < kRows; ++r) {
      const auto x = Dot::element(a + r * kRowBytes);
      for (int v = 0; v < kVectors; ++v) Dot::add_product(chains[r][v], b[v], x);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = chains[r][v];
  }
}

// Decoding waits for memory, so reads are asked for in the order in which a segment makes them: keys of its blocks,
// then values, then keys of the next segment. Keys run kBlocksAhead ahead; the softmax, which reads nothing from
// memory, asks for kBlocksAtSoftmax more blocks of values, and every second block of values hands that lead back.
constexpr int64_t kBlocksAhead = 4, kBlocksAtSoftmax = 8;
inline void prefetch_scales(const float* scales) {
  __builtin_prefetch(scales, 0, 2);
  __builtin_prefetch(scales + kLanes, 0, 2);
}
// What to ask for beside the keys of a block; `here` where that is nothing.
inline const uint8_t* ahead_of_keys(const AttentionArgs& p, const Group& g, int64_t block, const uint8_t* here) {
  const int64_t to = block + kBlocksAhead, beyond = to - g.end_block();
  const bool int8 = p.kv.type == KvType::kInt8;
  if (beyond < 0) {
    const int64_t at = g.start + to * kBlockSize;
    if (int8) prefetch_scales(p.kv.key_scales(at));
    return p.kv.keys(at);
  }
  if (g.first_block() + beyond >= g.end_block()) return p.next != nullptr && beyond == kBlocksAhead - 1 ? p.next : here;
  const int64_t at = g.start + (g.first_block() + beyond) * kBlockSize;
  if (int8) prefetch_scales(p.kv.value_scales(at));
  return p.kv.values(at);
}
inline const uint8_t* ahead_of_values(const AttentionArgs& p, const Group& g, int64_t block, const uint8_t* here) {
  const int64_t step = block - g.first_block();
  if (step % 2 != 0) return here;
  const int64_t to = g.first_block() + kBlocksAhead + kBlocksAtSoftmax + step / 2, beyond = to - g.end_block();
  if (beyond < 0) {
    const int64_t at = g.start + to * kBlockSize;
    if (p.kv.type == KvType::kInt8) prefetch_scales(p.kv.value_scales(at));
    return p.kv.values(at);
  }
  const bool alone = p.part == AttentionPart::kSegment;
  const int64_t next = (alone ? p.next_segment * kSegment : g.start + kSegment) + beyond * kBlockSize;
  if (next >= p.end[g.first_row + g.rows - 1] || (alone && p.next_segment == 0)) {
    return p.next != nullptr && step == 0 ? p.next + key_bytes(p.kv.type, p.kv.head_dim) : here;
  }
  if (p.kv.type == KvType::kInt8) prefetch_scales(p.kv.key_scales(next));
  return p.kv.keys(next);
}

// The values that the softmax of a group asks for, a few lines in each of its steps.
class ValuesAhead {
 public:
  ValuesAhead(const AttentionArgs& p, const Group& g) : p_(p), g_(g), block_(g.first_block() + kBlocksAhead) {
    end_ = smaller(block_ + kBlocksAtSoftmax, g.end_block());
    lines_ = (value_bytes(p.kv.type, p.kv.head_dim) + scale_bytes(p.kv.type)) / 64;
    const int64_t steps = g.rows * (g.end_block() - g.first_block());
    per_step_ = (kBlocksAtSoftmax * lines_ + steps - 1) / steps;
    enter();
  }
  void step() {
    for (int64_t i = 0; i < per_step_ && block_ < end_; ++i) {
      __builtin_prefetch(line_, 0, 2);
      line_ += 64;
      if (--left_ == 0) {
        ++block_;
        enter();
      }
    }
  }

 private:
  void enter() {
    left_ = lines_;
    if (block_ < end_) line_ = p_.kv.values(g_.start + block_ * kBlockSize);
  }

  const AttentionArgs& p_;
  const Group& g_;
  int64_t block_, end_, lines_, per_step_, left_;
  const uint8_t* line_ = nullptr;
};

}  // namespace
}  // namespace jiffy::JIFFY_ISA
