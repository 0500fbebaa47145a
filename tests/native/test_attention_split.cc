// Attention whose segments several lanes share: the bits of one lane alone.
#include <cstring>

#include "kernel_testing.h"
#include "program/op_call.h"

namespace jiffy {
namespace {

using check::normal;

struct Shape {
  KvType type;
  int64_t n_heads, n_kv_heads, head_dim, window;
  std::vector<int64_t> lengths, counts;
};

Operand floats(std::vector<float>& x, int64_t rows) {
  return {x.data(), {.space = Space::kTokens, .width = static_cast<int64_t>(x.size()) / rows, .format = {}}, rows};
}

std::shared_ptr<const RaggedKv> filled(const Shape& s, ThreadPool& pool) {
  auto kv = std::make_shared<RaggedKv>(s.type, s.n_kv_heads, s.head_dim, s.lengths);
  int64_t rows = 0;
  for (const int64_t n : s.lengths) rows += n;
  std::vector<float> k = normal(static_cast<size_t>(rows * s.n_kv_heads * s.head_dim), 1), v = normal(k.size(), 2);
  const Attributes a{.n_heads = s.n_heads, .n_kv_heads = s.n_kv_heads, .head_dim = s.head_dim};
  OpCallSpec spec;
  spec.at = {OpKind::kKvWrite, {0, 1}, {}, {}, a};
  spec.operands = {floats(k, rows), floats(v, rows)};
  spec.kv = kv;
  spec.counts = s.lengths;
  run_all({std::make_shared<OpCall>(spec)}, 1, pool, select_kernels("auto"));
  return kv;
}

std::vector<float> attended(const Shape& s, const std::shared_ptr<const RaggedKv>& kv, int lanes,
                            const Kernels& kernels) {
  int64_t rows = 0;
  for (const int64_t n : s.counts) rows += n;
  std::vector<float> q = normal(static_cast<size_t>(rows * s.n_heads * s.head_dim), 3), y(q.size(), -1.0f);
  OpCallSpec spec;
  spec.at = {
      OpKind::kAttention,
      {0},
      {1},
      {},
      {.scale = 0.2f, .n_heads = s.n_heads, .n_kv_heads = s.n_kv_heads, .head_dim = s.head_dim, .window = s.window}};
  spec.operands = {floats(q, rows), floats(y, rows)};
  spec.kv = kv;
  spec.counts = s.counts;
  ThreadPool pool(lanes);
  run_all({std::make_shared<OpCall>(spec)}, 2, pool, kernels);
  return y;
}

TEST(lanes_that_share_segments_give_the_bits_of_one) {
  ThreadPool pool(2);
  const std::vector<std::pair<std::vector<int64_t>, std::vector<int64_t>>> batches = {
      {{2100}, {1}}, {{513}, {1}}, {{1500}, {9}}, {{1400, 3, 700}, {1, 1, 30}}, {{40, 1030}, {40, 1}}};
  for (const KvType type : {KvType::kF32, KvType::kBf16, KvType::kInt8}) {
    for (const auto& [lengths, counts] : batches) {
      for (const int64_t window : {0, 5, 600}) {
        for (const int64_t n_kv_heads : {1, 3}) {
          const Shape shape{type, n_kv_heads * 3, n_kv_heads, 34, window, lengths, counts};
          const auto kv = filled(shape, pool);
          const std::vector<float> alone = attended(shape, kv, 1, select_kernels("auto"));
          for (const int lanes : {2, 3, 5}) {
            const std::vector<float> together = attended(shape, kv, lanes, select_kernels("auto"));
            CHECK(std::memcmp(together.data(), alone.data(), alone.size() * sizeof(float)) == 0);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace jiffy
