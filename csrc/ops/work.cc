#include "ops/work.h"

#include <algorithm>

#include "ops/sight.h"

namespace jiffy {
namespace {

int64_t matrix_bytes(const PackedMatrix& m) { return n_slabs(m.rows) * slab_bytes(m.format, m.cols); }

int64_t kv_position_bytes(const KvLayout& kv) {  // of one KV head of one layer
  return kv_head_bytes(kv.type, kv.head_dim) / kBlockSize;
}

Arithmetic arithmetic(const RowFormat& f) {
  return f.bits == 8 ? Arithmetic::kInt8 : f.bits == 16 ? Arithmetic::kBf16 : Arithmetic::kF32;
}

// Vectors are read whole; a table's rows (of the embedding, of rope) only for the tokens at hand.
Work parameter_work(const Call& c) {
  Work sum;
  for (const int index : c.at.parameters) {
    if (index < 0) continue;
    const Parameter& p = c.parameters[static_cast<size_t>(index)];
    if (p.matrix.data == nullptr) {
      sum.bytes += std::min(p.rows, c.batch.n_tokens) * p.cols * static_cast<int64_t>(sizeof(float));
    } else if (c.at.op == OpKind::kEmbedding) {
      sum.bytes += std::min(p.rows, c.batch.n_tokens) * slab_bytes(p.matrix.format, p.cols) / kSlabRows;
    } else {
      sum.bytes += matrix_bytes(p.matrix);
      sum.operations += 2 * c.input(0).rows * p.rows * p.cols;
      sum.arithmetic = arithmetic(activation_format(p.matrix.format));
    }
  }
  return sum;
}

Work candidates_work(const Call& c) {
  Work sum;
  for (const CandidateRun& run : c.output(0).candidates) {
    const PackedMatrix& weight = c.weight_of(run);
    sum.bytes += matrix_bytes(weight);
    sum.operations += 2 * (run.end - run.begin) * weight.rows * weight.cols;
    sum.arithmetic = arithmetic(activation_format(weight.format));
  }
  return sum;
}

Work attention_work(const Call& c) {
  const Attributes& a = c.at.attributes;
  const KvLayout& kv = a.cross ? *c.batch.source : c.kv;
  Work sum;
  sum.arithmetic = kv.type == KvType::kInt8   ? Arithmetic::kInt8
                   : kv.type == KvType::kBf16 ? Arithmetic::kBf16
                                              : Arithmetic::kF32;
  for (int64_t s = 0; s < c.batch.n_slices; ++s) {
    const SliceView& slice = c.batch.slices[s];
    const int64_t behind = slice.position + slice.end - slice.begin;
    int64_t pairs = 0;  // of a position and one that it sees
    for (int64_t position = slice.position; position < behind; ++position) {
      const Sight seen = sight(a, slice, position);
      pairs += seen.end - seen.first;
    }
    const int64_t positions = sight(a, slice, behind - 1).end - sight(a, slice, slice.position).first;
    sum.bytes += positions * a.n_kv_heads * kv_position_bytes(kv);
    sum.operations += 4 * pairs * a.n_heads * a.head_dim;  // q k and p v
  }
  return sum;
}

}  // namespace

Work work(const Call& call) {
  if (!call.at.outputs.empty() && !call.output(0).candidates.empty()) return candidates_work(call);
  Work sum = call.at.op == OpKind::kAttention ? attention_work(call) : parameter_work(call);
  if (call.at.op == OpKind::kKvWrite || call.at.op == OpKind::kRopeKvWrite) {
    sum.bytes += call.batch.n_tokens * call.at.attributes.n_kv_heads * kv_position_bytes(call.kv);
  }
  return sum;
}

}  // namespace jiffy
