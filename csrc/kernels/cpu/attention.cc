// out[r] = softmax(scale * q[r] K^T (+ bias[r]) over the positions [first[r], end[r])) V   rows that share a KV head
//
// Each fixed segment of 512 absolute positions is a softmax of its own, (max, sum, acc), whose scores stay in L1 and
// L2: all scores, their maximum, all probabilities, their sum, then the weighted values, in registers. Segments are
// merged in ascending order (Milakov and Gimelshein 2018), whoever computed them; a sliding window masks, it never
// moves borders: the order of every addition is a function of the position alone.
#include "kernels/cpu/attention_float.h"
#include "kernels/cpu/attention_int8.h"

namespace jiffy::JIFFY_ISA {
namespace {

Scratch lay_out(float* memory, int64_t head_dim) {
  Scratch s;
  s.width = padded_head_dim(head_dim);
  s.state = attention_state_floats(head_dim);
  const auto take = [&memory](int64_t floats) {
    float* piece = memory;
    memory += floats;
    return piece;
  };
  s.q = take(kAttentionRows * kRowFloats);
  s.weights = take(kGroupRows * kRowFloats);
  s.whole = take(kAttentionRows * s.state);
  s.segment = take(kGroupRows * s.state);
  s.partial = reinterpret_cast<uint8_t*>(take(kBlockSize / 2 * s.width));
  s.p_scale = take(kGroupRows * kLanes);
  s.exponent = take(kAttentionRows);
  s.unit = take(kAttentionRows);
  s.q_sum = reinterpret_cast<int32_t*>(take(kAttentionRows));
  return s;
}

// What depends on the type of keys and values.
struct Float32Kind : Float32 {
  static constexpr auto load_query = load_float_query<Float32>;
  static constexpr auto score = score_floats<Float32>;
  static constexpr auto accumulate = accumulate_floats<Float32>;
};
template <class Bf16>
struct Bf16Kind : Bf16 {
  static constexpr auto load_query = load_float_query<Bf16>;
  static constexpr auto score = score_floats<Bf16>;
  static constexpr auto accumulate = accumulate_floats<Bf16>;
};
struct Int8Kind : Float32 {
  static constexpr auto load_query = load_int8_query;
  static constexpr auto score = score_int8;
  static constexpr auto accumulate = accumulate_int8;
};

constexpr float kNone = -__builtin_inff();

// The bias of 16 positions, the first at `distance` from the row's own.
Floats bias_lanes(const float* table, int64_t reach, int64_t distance) {
  if (distance >= -reach && distance + kLanes - 1 <= reach) return load(table + reach + distance);
  if (distance > reach) return splat(table[2 * reach]);
  if (distance + kLanes <= -reach) return splat(table[0]);
  alignas(64) float lanes[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) {
    const int64_t at = distance + i;
    lanes[i] = table[reach + (at < -reach ? -reach : at > reach ? reach : at)];
  }
  return load(lanes);
}

// Turns a row's products in the blocks [first, end) into exponents of 2 and adds their biases.
void add_bias(const AttentionArgs& p, const Scratch& s, const Group& g, int64_t r, int64_t first, int64_t end) {
  float* row = s.weights + r * kRowFloats;
  const int64_t at = g.first_row + r, start = g.start - p.position[at];
  const Floats unit = splat(s.unit[at]), log2e = splat(0x1.715476p0f);
  for (int64_t i = first * kBlockSize; i < end * kBlockSize; i += kLanes) {
    store(row + i, fma(bias_lanes(p.bias[at], p.reach, start + i), log2e, mul(load(row + i), unit)));
  }
}

// Hides the scores of a block that the row doesn't see.
void hide_unseen(const Seen& see, int64_t block, float* row) {
  for (int64_t at = block * kBlockSize; at < (block + 1) * kBlockSize; at += kLanes) {
    store(row + at, keep_seen(see, at, load(row + at), splat(kNone)));
  }
}

// A NaN is no maximum.
float largest_score(const float* row, int64_t first, int64_t end) {
  Floats top[2] = {splat(kNone), splat(kNone)};
  for (int64_t block = first; block < end; ++block) {
    for (int v = 0; v < 2; ++v) top[v] = max(load(row + block * kBlockSize + v * kLanes), top[v]);
  }
  return max_lane(max(top[0], top[1]));
}

// Turns a row's scores into probabilities 2^((score - max) exponent) and notes max and sum in its state.
template <class Kind>
void softmax_row(const AttentionArgs& p, const Scratch& s, const Group& g, int64_t r, float* state,
                 ValuesAhead& ahead) {
  float* row = s.weights + r * kRowFloats;
  const Seen see = seen(p, g, r);
  Floats nothing[2] = {zeros(), zeros()};
  float& top = state_max(state, s.width) = kNone;
  float& total = state_sum(state, s.width) = 0.0f;
  if (see.low >= see.high) {
    for (int64_t block = g.first_block(); block < g.end_block(); ++block) Kind::put(row, block, nothing);
    return;
  }
  const int64_t first = see.low / kBlockSize, end = (see.high + kBlockSize - 1) / kBlockSize;
  if (p.bias != nullptr) add_bias(p, s, g, r, first, end);
  if (!see.all_of(first * kBlockSize, kBlockSize)) hide_unseen(see, first, row);
  if (!see.all_of((end - 1) * kBlockSize, kBlockSize)) hide_unseen(see, end - 1, row);
  top = largest_score(row, first, end);
  const Floats shift = splat(top), exponent = splat(s.exponent[g.first_row + r]);
  Floats sums = zeros();
  for (int64_t block = g.first_block(); block < first; ++block) Kind::put(row, block, nothing);
  for (int64_t block = first; block < end; ++block) {
    ahead.step();
    Floats e[2];
    for (int v = 0; v < 2; ++v) {
      e[v] = exp2(mul(sub(load(row + block * kBlockSize + v * kLanes), shift), exponent));
    }
    Kind::put(row, block, e);
    sums = add(sums, add(e[0], e[1]));
  }
  for (int64_t block = end; block < g.end_block(); ++block) Kind::put(row, block, nothing);
  total = sum(sums);
}

// The states of a group's rows in its segment.
template <class Kind>
void compute_states(const AttentionArgs& p, const Scratch& s, const Group& g, float* states) {
  Kind::score(p, s, g);
  ValuesAhead ahead(p, g);
  for (int64_t r = 0; r < g.rows; ++r) softmax_row<Kind>(p, s, g, r, states + r * s.state, ahead);
  Kind::accumulate(p, s, g, states);
}

// whole = merge(whole, segment)
void merge_state(const Scratch& s, float exponent, float* segment, float* whole) {
  const float here = state_sum(segment, s.width), before = state_sum(whole, s.width);
  if (here == 0.0f) return;  // nothing visible in this segment
  const float top = state_max(segment, s.width), old = state_max(whole, s.width), both = top > old ? top : old;
  alignas(64) float factors[kLanes] = {(old - both) * exponent, (top - both) * exponent};
  store(factors, exp2(load(factors)));
  state_sum(whole, s.width) = before * factors[0] + here * factors[1];
  state_max(whole, s.width) = both;
  for (int64_t i = 0; i < s.width; i += kLanes) {
    store(whole + i, fma(load(segment + i), splat(factors[1]), mul(load(whole + i), splat(factors[0]))));
  }
}

void reset(const Scratch& s, float* state) {
  for (int64_t i = 0; i < s.width; i += kLanes) store(state + i, zeros());
  state_max(state, s.width) = kNone;
  state_sum(state, s.width) = 0.0f;
}

// A sum of -0 becomes 0, as merge_state() makes it: some rows of a segment are merged with others, some are not.
void write_out(const AttentionArgs& p, const Scratch& s, int64_t r) {
  const float* state = s.whole + r * s.state;
  const Floats total = splat(state[s.width + 1]);
  for (int64_t i = 0; i < p.kv.head_dim; i += kLanes) {
    const int n = static_cast<int>(smaller(kLanes, p.kv.head_dim - i));
    store_first(p.out[r] + i, div(add(load(state + i), zeros()), total), n);
  }
}

// Rows [first_row, first_row + rows) in the segment from `start`.
Group group_of(const AttentionArgs& p, int64_t first_row, int64_t rows, int64_t start) {
  Group g{first_row, static_cast<int>(rows), start, kSegment, 0};
  for (int64_t r = 0; r < rows; ++r) {
    const Seen see = seen(p, g, r);
    if (see.low >= see.high) continue;
    g.low = smaller(g.low, see.low);
    g.high = see.high > g.high ? see.high : g.high;
  }
  return g;
}

// body(group) for all rows of the segment from `start`, as even as possible.
template <class Body>
void in_groups(const AttentionArgs& p, int64_t start, Body&& body) {
  for (int64_t r = 0; r < p.rows;) {
    const int64_t parts = (p.rows - r + kGroupRows - 1) / kGroupRows, n = (p.rows - r + parts - 1) / parts;
    body(group_of(p, r, n, start));
    r += n;
  }
}

template <class Kind>
void segment_alone(const AttentionArgs& p, const Scratch& s) {
  in_groups(p, p.segment * kSegment, [&](const Group& g) {
    float* states = p.states + g.first_row * s.state;
    if (g.low < g.high) return compute_states<Kind>(p, s, g, states);
    for (int64_t r = 0; r < g.rows; ++r) reset(s, states + r * s.state);
  });
}

template <class Kind>
void segments_in_turn(const AttentionArgs& p, const Scratch& s, int64_t from, int64_t to) {
  for (int64_t start = from / kSegment * kSegment; start < to; start += kSegment) {
    in_groups(p, start, [&](const Group& g) {
      if (g.low >= g.high) return;
      compute_states<Kind>(p, s, g, s.segment);
      for (int64_t r = 0; r < g.rows; ++r) {
        const int64_t row = g.first_row + r;
        merge_state(s, s.exponent[row], s.segment + r * s.state, s.whole + row * s.state);
      }
    });
  }
}

// Rows that see one segment only need no merging, which would give the same bits (BERT-base, 32 tokens: a fifth of the
// kernel's time).
template <class Kind>
void segment_of_all(const AttentionArgs& p, const Scratch& s, int64_t from) {
  in_groups(p, from / kSegment * kSegment,
            [&](const Group& g) { compute_states<Kind>(p, s, g, s.whole + g.first_row * s.state); });
}

void merge_segments(const AttentionArgs& p, const Scratch& s, int64_t to) {
  const int64_t n = (to + kSegment - 1) / kSegment - p.segment;
  for (int64_t i = 0; i < n * p.rows; ++i) {
    const int64_t r = i % p.rows;
    merge_state(s, s.exponent[r], p.states + i * s.state, s.whole + r * s.state);
  }
}

constexpr int64_t kQueriesAhead = 8;  // rows lie pages apart, and another lane has written them
void prefetch_query(const AttentionArgs& p, int64_t r) {
  if (r >= p.rows) return;
  for (int64_t d = 0; d < p.kv.head_dim; d += kLanes) {
    __builtin_prefetch(p.q[r] + d);
    __builtin_prefetch(p.out[r] + d, 1);
  }
}

template <class Kind>
__attribute__((noinline)) void attend(const AttentionArgs& p) {
  const Scratch s = lay_out(p.scratch, p.kv.head_dim);
  int64_t from = p.first[0], to = p.end[0];  // positions that any row sees
  for (int64_t r = 0; r < p.rows; ++r) {
    from = smaller(from, p.first[r]);
    to = p.end[r] > to ? p.end[r] : to;
  }
  const bool one_segment = p.part == AttentionPart::kAll && from / kSegment == (to - 1) / kSegment;
  for (int64_t r = 0; r < p.rows; ++r) {
    prefetch_query(p, r + kQueriesAhead);
    Kind::load_query(p, s, r);
    if (p.bias != nullptr) {
      s.unit[r] = s.exponent[r];
      s.exponent[r] = 1.0f;
    }
    if (!one_segment) reset(s, s.whole + r * s.state);
  }
  if (p.part == AttentionPart::kSegment) return segment_alone<Kind>(p, s);
  if (p.part == AttentionPart::kMerge) {
    merge_segments(p, s, to);
  } else if (one_segment) {
    segment_of_all<Kind>(p, s, from);
  } else {
    segments_in_turn<Kind>(p, s, from, to);
  }
  for (int64_t r = 0; r < p.rows; ++r) write_out(p, s, r);
}

// Denormal numbers count as zero meanwhile, as they do for vdpbf16ps: also where that is computed by other
// instructions. No object restores the mode: its destructor would bring the symbols of exception handling into the
// kernel.
template <class Bf16>
void attend_bf16(const AttentionArgs& p) {
#if defined(__x86_64__)
  constexpr unsigned kDenormalsAreZero = 0x40, kFlushToZero = 0x8000;
  const unsigned mode = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(mode | kDenormalsAreZero | kFlushToZero);
  attend<Bf16Kind<Bf16>>(p);
  __builtin_ia32_ldmxcsr(mode);
#else
  attend<Bf16Kind<Bf16>>(p);
#endif
}

}  // namespace

void attention(const AttentionArgs& p) {
  switch (p.kv.type) {
    case KvType::kF32:
      return attend<Float32Kind>(p);
    case KvType::kBf16:
#ifdef JIFFY_NATIVE_PAIRS
      if (p.native_pairs) return attend_bf16<NativeBf16>(p);
#endif
      return attend_bf16<WideBf16>(p);
    case KvType::kInt8:
      return attend<Int8Kind>(p);
  }
}

}  // namespace jiffy::JIFFY_ISA
