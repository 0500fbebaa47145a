// Grouped-query attention of a ragged batch over the paged KV cache: causal or bidirectional, with or without a window.
//
// A piece of work is one KV head and up to 16 stacked rows: the query heads that share it, of consecutive tokens of a
// slice.
#include "ops/op.h"
#include "ops/sight.h"

namespace jiffy {
namespace {

// How the rows of one KV head are cut: all its query heads of a few tokens, or a part of the heads of one token.
struct Cut {
  int64_t heads, head_parts, tokens;

  explicit Cut(int64_t group)
      : heads(group < kAttentionRows ? group : kAttentionRows),
        head_parts((group + heads - 1) / heads),
        tokens(kAttentionRows / heads) {}
  int64_t token_parts(const SliceView& s) const { return (s.end - s.begin + tokens - 1) / tokens; }
};

struct Piece {
  const SliceView* slice;
  int64_t token;  // row of its first token
  int64_t kv_head, head_part;
};

void run_piece(const Call& c, Worker& w, const Cut& cut, const Piece& piece) {
  const Attributes& a = c.at.attributes;
  const int64_t group = a.n_heads / a.n_kv_heads;
  const int64_t first = piece.head_part * cut.heads;
  const int64_t heads = first + cut.heads < group ? cut.heads : group - first;
  const int64_t last = piece.token + cut.tokens < piece.slice->end ? piece.token + cut.tokens : piece.slice->end;
  const float* q[kAttentionRows];
  float* out[kAttentionRows];
  int32_t seen_first[kAttentionRows], seen_end[kAttentionRows];
  int64_t rows = 0;
  for (int64_t t = piece.token; t < last; ++t) {
    const Sight seen = sight(a, *piece.slice, c.batch.positions[t]);
    for (int64_t h = 0; h < heads; ++h, ++rows) {
      const int64_t at = (t * a.n_heads + piece.kv_head * group + first + h) * a.head_dim;
      q[rows] = c.input(0).floats() + at;
      out[rows] = c.output(0).floats() + at;
      seen_first[rows] = static_cast<int32_t>(seen.first);
      seen_end[rows] = static_cast<int32_t>(seen.end);
    }
  }
  w.kernels.attention({.kv = c.kv.head(a.layer, piece.kv_head, piece.slice->block_table),
                       .rows = rows,
                       .q = q,
                       .out = out,
                       .first = seen_first,
                       .end = seen_end,
                       .scale = a.scale,
                       .scratch = w.scratch});
}

}  // namespace

void check_attention(const Check& c) {
  c.counts(1, 1, 0);
  const Attributes& a = c.at.attributes;
  c.positive(a.n_heads, "n_heads");
  c.positive(a.n_kv_heads, "n_kv_heads");
  c.positive(a.head_dim, "head_dim");
  c.that(a.head_dim <= kMaxHeadDim, "a head_dim of at most " + std::to_string(kMaxHeadDim), std::to_string(a.head_dim));
  c.that(a.n_heads % a.n_kv_heads == 0, "n_heads a multiple of n_kv_heads",
         std::to_string(a.n_heads) + " and " + std::to_string(a.n_kv_heads));
  c.that(a.window >= 0 && a.window <= INT32_MAX, "a window of 0 to 2147483647", std::to_string(a.window));
  c.is_float(c.input(0), a.n_heads * a.head_dim);
  c.is_float(c.output(0), a.n_heads * a.head_dim);
  c.that(c.input(0).space == Space::kTokens && c.output(0).space == Space::kTokens, "one row a token",
         "one row an output");
}

void run_attention(const Call& c, Worker& w) {
  const Attributes& a = c.at.attributes;
  const Cut cut(a.n_heads / a.n_kv_heads);
  const int64_t parts = a.n_kv_heads * cut.head_parts;  // of each run of tokens
  int64_t pieces = 0;
  for (int64_t s = 0; s < c.batch.n_slices; ++s) pieces += parts * cut.token_parts(c.batch.slices[s]);
  int64_t slice = 0, before = 0;  // chunks come in ascending order: the slice is found by walking on
  w.share(pieces, 1, [&](int64_t index, int64_t) {
    while (index - before >= parts * cut.token_parts(c.batch.slices[slice])) {
      before += parts * cut.token_parts(c.batch.slices[slice]);
      ++slice;
    }
    const SliceView& s = c.batch.slices[slice];
    const int64_t run = (index - before) / parts, part = (index - before) % parts;
    run_piece(c, w, cut, {&s, s.begin + run * cut.tokens, part % a.n_kv_heads, part / a.n_kv_heads});
  });
}

}  // namespace jiffy
