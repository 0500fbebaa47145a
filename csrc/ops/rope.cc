// rope, kv_write, and both at once: rotate q and k by their positions, store k and v in the cache
#include <algorithm>

#include "ops/op.h"

namespace jiffy {
namespace {

void check_heads(const Check& c) {
  const Attributes& a = c.at.attributes;
  c.positive(a.n_heads, "n_heads");
  c.positive(a.head_dim, "head_dim");
  c.that(a.head_dim % 2 == 0 && a.head_dim <= kMaxHeadDim, "an even head_dim of at most " + std::to_string(kMaxHeadDim),
         std::to_string(a.head_dim));
}

void check_tables(const Check& c) {
  c.is_floats(0, 0, c.at.attributes.head_dim / 2);
  c.is_floats(1, c.parameter(0).rows, c.at.attributes.head_dim / 2);
}

void check_kv(const Check& c, const Value& k, const Value& v) {
  const Attributes& a = c.at.attributes;
  c.positive(a.n_kv_heads, "n_kv_heads");
  c.is_float(k, a.n_kv_heads * a.head_dim);
  c.is_float(v, a.n_kv_heads * a.head_dim);
  c.that(k.space == Space::kTokens && v.space == Space::kTokens, "one row a token", "one row an output");
}

RopeArgs rope_args(const Call& c, const float* x, float* y, int64_t heads) {
  return {.x = x,
          .y = y,
          .positions = c.batch.positions,
          .cosines = c.parameter(0).floats,
          .sines = c.parameter(1).floats,
          .n_heads = heads,
          .head_dim = c.at.attributes.head_dim,
          .begin = 0,
          .end = 0};
}

// Lanes that write neighbouring positions of a block share its cache lines, so long chunks are cut into pieces of a
// block (512 tokens: 10 us a token in pieces of four).
int64_t tokens_at_a_time(const Call& c, const Worker& w) {
  return std::clamp<int64_t>(c.batch.n_tokens / (int64_t{4} * w.lane.count()), 1, kBlockSize);
}

// Stores the rows [begin, end), which may span slices, of the heads [head, end_head).
void write_rows(const Call& c, Worker& w, const float* k, const float* v, int64_t begin, int64_t end, int64_t head,
                int64_t end_head) {
  const Attributes& a = c.at.attributes;
  for (int64_t s = 0; s < c.batch.n_slices; ++s) {
    const SliceView& slice = c.batch.slices[s];
    const int64_t first = begin > slice.begin ? begin : slice.begin, last = end < slice.end ? end : slice.end;
    if (first >= last) continue;
    for (int64_t h = head; h < end_head; ++h) {
      w.kernels.kv_write({.kv = c.kv.head(a.layer, h, slice.block_table),
                          .k = k + h * a.head_dim,
                          .v = v + h * a.head_dim,
                          .stride = a.n_kv_heads * a.head_dim,
                          .position = slice.position + first - slice.begin,
                          .begin = first,
                          .end = last});
    }
  }
}

}  // namespace

void check_rope(const Check& c) {
  c.counts(1, 1, 2);
  check_heads(c);
  c.is_float(c.input(0), c.at.attributes.n_heads * c.at.attributes.head_dim);
  c.is_float(c.output(0), c.input(0).width);
  c.that(c.input(0).space == Space::kTokens && c.output(0).space == Space::kTokens, "one row a token",
         "one row an output");
  check_tables(c);
}

void run_rope(const Call& c, Worker& w) {
  RopeArgs args = rope_args(c, c.input(0).floats(), c.output(0).floats(), c.at.attributes.n_heads);
  w.share(c.batch.n_tokens, tokens_at_a_time(c, w), [&](int64_t begin, int64_t end) {
    args.begin = begin;
    args.end = end;
    w.kernels.rope(args);
  });
}

void check_kv_write(const Check& c) {
  c.counts(2, 0, 0);
  check_heads(c);
  check_kv(c, c.input(0), c.input(1));
}

// A piece is a block's rows of one head, so that no two lanes write the same lines (32 tokens of BERT-base in pieces of
// four tokens: 20 us on two lanes, 12 on one).
void run_kv_write(const Call& c, Worker& w) {
  const int64_t heads = c.at.attributes.n_kv_heads, n = c.batch.n_tokens;
  w.share((n + kBlockSize - 1) / kBlockSize * heads, 1, [&](int64_t piece, int64_t) {
    const int64_t begin = piece / heads * kBlockSize, head = piece % heads;
    const int64_t end = std::min(begin + kBlockSize, n);
    write_rows(c, w, c.input(0).floats(), c.input(1).floats(), begin, end, head, head + 1);
  });
}

void check_rope_kv_write(const Check& c) {
  c.counts(3, 1, 2);
  check_heads(c);
  check_tables(c);
  check_kv(c, c.input(1), c.input(2));
  c.is_float(c.input(0), c.at.attributes.n_heads * c.at.attributes.head_dim);
  c.is_float(c.output(0), c.input(0).width);
  c.that(c.input(0).space == Space::kTokens && c.output(0).space == Space::kTokens, "one row a token",
         "one row an output");
}

void run_rope_kv_write(const Call& c, Worker& w) {
  RopeArgs q = rope_args(c, c.input(0).floats(), c.output(0).floats(), c.at.attributes.n_heads);
  // k is rotated in place: this instruction is its last reader.
  RopeArgs k = rope_args(c, c.input(1).floats(), c.input(1).floats(), c.at.attributes.n_kv_heads);
  w.share(c.batch.n_tokens, tokens_at_a_time(c, w), [&](int64_t begin, int64_t end) {
    q.begin = k.begin = begin;
    q.end = k.end = end;
    w.kernels.rope(q);
    w.kernels.rope(k);
    write_rows(c, w, c.input(1).floats(), c.input(2).floats(), begin, end, 0, c.at.attributes.n_kv_heads);
  });
}

}  // namespace jiffy
