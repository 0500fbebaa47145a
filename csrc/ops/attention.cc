// Grouped-query attention of a ragged batch over the paged KV cache: causal or bidirectional, with or without a window.
//
// A piece of work is one KV head and up to 48 stacked rows: the query heads that share it, of consecutive tokens of a
// slice. Where that gives threads too few pieces, they share the segments of each.
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
};

struct Piece {
  SliceView slice;
  int64_t token;  // row of its first token
  int64_t kv_head, head_part;
};

// The pieces of a batch, slice by slice.
class Pieces {
 public:
  explicit Pieces(const Call& c) : c_(c), a_(c.at.attributes), cut_(a_.n_heads / a_.n_kv_heads) {}

  int64_t of(const SliceView& s) const { return parts() * ((s.end - s.begin + cut_.tokens - 1) / cut_.tokens); }
  Piece piece(const SliceView& s, int64_t index) const {
    const int64_t run = index / parts(), part = index % parts();
    return {s, s.begin + run * cut_.tokens, part % a_.n_kv_heads, part / a_.n_kv_heads};
  }

  // The slice number `i`. Beams of a text stand side by side and look at one source: there they are a slice, whose rows
  // share each read. Moves i behind it.
  SliceView next_slice(int64_t& i) const {
    SliceView s = c_.batch.slices[i++];
    while (a_.cross && i < c_.batch.n_slices && c_.batch.slices[i].source_table == s.source_table) {
      s.end = c_.batch.slices[i++].end;
    }
    return s;
  }

  // The segments that any token of a slice sees.
  int64_t first_segment(const SliceView& s) const { return sight(a_, s, s.position).first / kSegment; }
  int64_t segments(const SliceView& s) const {
    const int64_t end = sight(a_, s, s.position + s.end - s.begin - 1).end;
    return (end + kSegment - 1) / kSegment - first_segment(s);
  }
  int64_t state_floats(const SliceView& s) const {  // of one piece in one segment
    const int64_t tokens = s.end - s.begin < cut_.tokens ? s.end - s.begin : cut_.tokens;
    return tokens * cut_.heads * attention_state_floats(a_.head_dim);
  }

  // Whether dealing whole pieces out could leave lanes idle for an eighth of the time. Their states have to fit.
  bool too_few(int64_t lanes) const {
    int64_t longest = 0, total = 0, floats = 0;
    for (int64_t i = 0; i < c_.batch.n_slices;) {
      const SliceView s = next_slice(i);
      longest = segments(s) > longest ? segments(s) : longest;
      total += of(s) * segments(s);
      floats += of(s) * segments(s) * state_floats(s);
    }
    return longest > 1 && 8 * longest * (lanes - 1) > total && floats <= kSharedFloats;
  }

  // Pieces that a lane takes together: the heads of a token, where all are short and there are plenty. Each then asks
  // for the next one's keys and values, which lie behind its own.
  int64_t together(int64_t n, int64_t lanes) const {
    if (n < 8 * lanes * parts()) return 1;
    for (int64_t i = 0; i < c_.batch.n_slices;) {
      if (segments(next_slice(i)) > 1) return 1;
    }
    return parts();
  }

  // Deals out all pieces, or the segments of all: body(piece, segment, states of the piece's first segment, next keys).
  template <class Body>
  void share(Worker& w, bool by_segment, Body&& body) const {
    const auto units = [&](const SliceView& s) { return of(s) * (by_segment ? segments(s) : 1); };
    int64_t n = 0, next = 0, before = 0;
    float* states = w.shared;  // chunks come in ascending order: the slice is found by walking on
    for (int64_t i = 0; i < c_.batch.n_slices;) n += units(next_slice(i));
    if (n == 0) return;
    SliceView s = next_slice(next);
    w.share(n, by_segment ? 1 : together(n, w.lane.count()), [&](int64_t index, int64_t end) {
      for (; index < end; ++index) {
        while (index - before >= units(s)) {
          before += units(s);
          states += of(s) * segments(s) * state_floats(s);
          s = next_slice(next);
        }
        const int64_t per_piece = by_segment ? segments(s) : 1, at = (index - before) / per_piece;
        const bool follows = index + 1 < end && at + 1 < of(s);
        body(piece(s, at), (index - before) % per_piece, states + at * segments(s) * state_floats(s),
             follows ? first_keys(piece(s, at + 1)) : nullptr);
      }
    });
  }

  int64_t rows(const Piece& piece) const {
    const int64_t group = a_.n_heads / a_.n_kv_heads, left = piece.slice.end - piece.token;
    const int64_t heads = group - piece.head_part * cut_.heads;
    return (heads < cut_.heads ? heads : cut_.heads) * (left < cut_.tokens ? left : cut_.tokens);
  }
  KvHeadView head(const Piece& p) const {
    return a_.cross ? c_.batch.source->head(a_.layer, p.kv_head, p.slice.source_table)
                    : c_.kv.head(a_.layer, p.kv_head, p.slice.block_table);
  }
  const uint8_t* first_keys(const Piece& p) const {
    return head(p).keys(sight(a_, p.slice, c_.batch.positions[p.token]).first);
  }

  // Calls the kernel for a piece; `part` says what of it.
  void run(Worker& w, const Piece& piece, AttentionArgs part) const;

 private:
  int64_t parts() const { return a_.n_kv_heads * cut_.head_parts; }  // of each run of tokens

  const Call& c_;
  const Attributes& a_;
  const Cut cut_;
};

void Pieces::run(Worker& w, const Piece& piece, AttentionArgs part) const {
  const int64_t group = a_.n_heads / a_.n_kv_heads;
  const int64_t first = piece.head_part * cut_.heads;
  const int64_t heads = first + cut_.heads < group ? cut_.heads : group - first;
  const int64_t last = piece.token + cut_.tokens < piece.slice.end ? piece.token + cut_.tokens : piece.slice.end;
  const Parameter* bias = c_.at.parameters.empty() ? nullptr : &c_.parameter(0);
  const float *q[kAttentionRows], *biases[kAttentionRows];
  float* out[kAttentionRows];
  int32_t seen_first[kAttentionRows], seen_end[kAttentionRows], position[kAttentionRows];
  int64_t rows = 0;
  for (int64_t t = piece.token; t < last; ++t) {
    const Sight seen = sight(a_, piece.slice, c_.batch.positions[t]);
    for (int64_t h = 0; h < heads; ++h, ++rows) {
      const int64_t head = piece.kv_head * group + first + h, at = (t * a_.n_heads + head) * a_.head_dim;
      q[rows] = c_.input(0).floats() + at;
      out[rows] = c_.output(0).floats() + at;
      position[rows] = c_.batch.positions[t];
      if (bias != nullptr) biases[rows] = bias->floats + head * bias->cols;
      seen_first[rows] = static_cast<int32_t>(seen.first);
      seen_end[rows] = static_cast<int32_t>(seen.end);
    }
  }
  part.kv = head(piece);
  part.rows = rows;
  part.q = q;
  part.out = out;
  part.first = seen_first;
  part.end = seen_end;
  part.scale = a_.scale;
  part.scratch = w.scratch;
  part.native_pairs = w.kernels.native_pairs;
  if (bias != nullptr) {
    part.bias = biases;
    part.position = position;
    part.reach = bias->cols / 2;
  }
  w.kernels.attention(part);
}

}  // namespace

void check_attention(const Check& c) {
  const bool biased = c.at.parameters.size() == 1;
  c.counts(1, 1, biased ? 1 : 0);
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
  if (!biased) return;
  c.that(c.has_parameter(0), "a bias or no parameter", "an empty one");
  c.is_floats(0, a.n_heads, c.parameter(0).cols);
  c.that(c.parameter(0).cols % 2 == 1, "a bias for an odd number of distances", std::to_string(c.parameter(0).cols));
}

void run_attention(const Call& c, Worker& w) {
  const Pieces pieces(c);
  const int64_t lanes = w.lane.count();
  if (!pieces.too_few(lanes)) {
    return pieces.share(w, false, [&](const Piece& piece, int64_t, float*, const uint8_t* next) {
      AttentionArgs all{};
      all.next = next;
      pieces.run(w, piece, all);
    });
  }
  const int64_t floats = attention_state_floats(c.at.attributes.head_dim);
  pieces.share(w, true, [&](const Piece& piece, int64_t i, float* states, const uint8_t*) {
    const int64_t first = pieces.first_segment(piece.slice);
    AttentionArgs part{};
    part.part = AttentionPart::kSegment;
    part.segment = first + i;
    part.next_segment = i + lanes < pieces.segments(piece.slice) ? first + i + lanes : 0;
    part.states = states + i * pieces.rows(piece) * floats;
    pieces.run(w, piece, part);
  });
  w.lane.finish();
  pieces.share(w, false, [&](const Piece& piece, int64_t, float* states, const uint8_t*) {
    AttentionArgs part{};
    part.part = AttentionPart::kMerge;
    part.segment = pieces.first_segment(piece.slice);
    part.states = states;
    pieces.run(w, piece, part);
  });
}

}  // namespace jiffy
