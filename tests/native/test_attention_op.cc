// Attention as an op, in programs of small integers: through scattered blocks, ragged batches, windows, both
// directions.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/buffer.h"
#include "integer_programs.h"

namespace jiffy {
namespace {

using namespace check;

// Grouped-query attention of integers with scores so far apart that only the largest count: the output is the mean of
// the values at the positions where q k is largest. Values are positive, so that nothing cancels.
struct HardAttention {
  static constexpr int64_t kKvHeads = 2, kHeadDim = 18;
  const int64_t n_heads, window;
  const bool causal;
  const Matrix table = Matrix::random(kVocab, kDim, 0, 2, 11), q = Matrix::random(width(), kDim, -1, 1, 12),
               k = Matrix::random(kKvHeads * kHeadDim, kDim, -1, 1, 13), v = values();

  explicit HardAttention(int64_t n_heads, int64_t window = 0, bool causal = true)
      : n_heads(n_heads), window(window), causal(causal) {}

  int64_t width() const { return n_heads * kHeadDim; }

  static Matrix values() {
    Matrix v = Matrix::random(kKvHeads * kHeadDim, kDim, 0, 3, 14);
    for (int64_t r = 0; r < v.rows; ++r) v.at(r, r % kDim) = 4.0f;
    return v;
  }

  std::shared_ptr<const Program> program() const {
    const Attributes heads{.scale = 100.0f,
                           .n_heads = n_heads,
                           .n_kv_heads = kKvHeads,
                           .head_dim = kHeadDim,
                           .window = window,
                           .causal = causal};
    Trace t(kContext);
    const int x = t.apply(OpKind::kEmbedding, {}, {add_matrix(t, table)}, kDim);
    const int query = t.matmul(x, add_matrix(t, q));
    t.instruction({OpKind::kKvWrite, {t.matmul(x, add_matrix(t, k)), t.matmul(x, add_matrix(t, v))}, {}, {}, heads});
    const int y = t.apply(OpKind::kAttention, {query}, {}, width(), heads);
    const int rows = t.value(width(), {}, Space::kOutputs);
    t.instruction({OpKind::kSelect, {y}, {rows}, {}, {}});
    return std::make_shared<const Program>(t.take(rows));
  }

  // One row for each token of a sequence.
  Matrix expected(const std::vector<int32_t>& ids) const {
    const Matrix x = embed(table, ids), queries = product(x, q), keys = product(x, k), values = product(x, v);
    Matrix y(x.rows, width());
    for (int64_t token = 0; token < y.rows; ++token) {
      for (int64_t head = 0; head < n_heads; ++head) attend(queries, keys, values, token, head, y);
    }
    return y;
  }

  bool sees(int64_t token, int64_t position) const {
    if (causal && position > token) return false;
    return window == 0 || std::abs(token - position) < window;
  }

  void attend(const Matrix& queries, const Matrix& keys, const Matrix& values, int64_t token, int64_t head,
              Matrix& y) const {
    const int64_t from = head / (n_heads / kKvHeads) * kHeadDim;
    std::vector<float> scores;
    for (int64_t p = 0; p < keys.rows; ++p) {
      if (!sees(token, p)) {
        scores.push_back(-INFINITY);
        continue;
      }
      scores.push_back(0.0f);
      for (int64_t i = 0; i < kHeadDim; ++i) {
        scores.back() += queries.at(token, head * kHeadDim + i) * keys.at(p, from + i);
      }
    }
    const float largest = *std::max_element(scores.begin(), scores.end());
    const auto count = static_cast<float>(std::count(scores.begin(), scores.end(), largest));
    for (int64_t i = 0; i < kHeadDim; ++i) {
      float total = 0.0f;
      for (int64_t p = 0; p < keys.rows; ++p) {
        if (scores[static_cast<size_t>(p)] == largest) total += values.at(p, from + i);
      }
      y.at(token, head * kHeadDim + i) = total / count;
    }
  }
};

// A sequence on its way through several steps.
struct Walker {
  std::vector<int32_t> ids, block_table;
  Matrix expected;
  int64_t done = 0;
};

// Steps of 1 to 40 tokens of each sequence, or of all that it has, until all are done.
void check_walk(Executor& executor, const KvLayout& kv, std::vector<Walker> walkers, unsigned seed, bool at_once) {
  std::mt19937 rng(seed);
  for (;;) {
    std::vector<int32_t> ids;
    std::vector<Part> parts;
    std::vector<float> expected;
    for (Walker& w : walkers) {
      const int64_t left = static_cast<int64_t>(w.ids.size()) - w.done;
      const int64_t count = at_once ? left : std::min<int64_t>(left, rng() % 3 == 0 ? 1 : 1 + rng() % 40);
      if (count == 0) continue;
      parts.push_back({w.done, count, &w.block_table});
      ids.insert(ids.end(), w.ids.begin() + w.done, w.ids.begin() + w.done + count);
      const auto row = w.expected.data.begin() + w.done * w.expected.cols;
      expected.insert(expected.end(), row, row + count * w.expected.cols);
      w.done += count;
    }
    if (ids.empty()) return;
    CHECK(run(executor, TestBatch(ids, parts), kv, walkers[0].expected.cols) == expected);
  }
}

// In blocks 0 to 24, shuffled.
std::vector<Walker> ragged_walkers(const HardAttention& attention) {
  std::vector<int32_t> blocks(25);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937(3));
  std::vector<Walker> walkers;
  for (const int64_t length : {200, 1, 33, 97, 64, 32, 150}) {
    Walker w{random_ids(length, static_cast<unsigned>(length)), {}, Matrix(0, 0)};
    for (int64_t p = 0; p < length; p += kBlockSize) {
      w.block_table.push_back(blocks.back());
      blocks.pop_back();
    }
    w.expected = attention.expected(w.ids);
    walkers.push_back(std::move(w));
  }
  return walkers;
}

void check_attention(const HardAttention& attention, KvType type) {
  const std::vector<Walker> walkers = ragged_walkers(attention);
  const auto program = attention.program();
  KvLayout kv = program->kv_shape();
  kv.type = type;
  Buffer memory = Buffer::allocate(static_cast<size_t>(25 * kv.block_bytes()), "test");
  kv.data = memory.as<uint8_t>();
  unsigned seed = 0;
  on_every_machine(program, [&](Executor& executor) {
    std::memset(memory.data(), 0xff, memory.size());  // NaNs: only what is written may be read
    for (int round = 0; round < 3; ++round) check_walk(executor, kv, walkers, ++seed, !attention.causal);
  });
}

TEST(attention_sees_its_own_sequence_through_scattered_blocks) {
  for (const int64_t n_heads : {6, 34}) {  // 3 or 17 query heads to a KV head: many tokens or part of one in a piece
    for (const KvType type : {KvType::kF32, KvType::kBf16}) {  // bf16 holds these small integers exactly
      check_attention(HardAttention(n_heads), type);
    }
  }
}

TEST(attention_in_a_window_and_in_both_directions) {
  for (const int64_t window : {0, 1, 20, 70, 500}) {
    for (const bool causal : {true, false}) check_attention(HardAttention(6, window, causal), KvType::kF32);
  }
}

}  // namespace
}  // namespace jiffy
