// Attention as an op, in programs of small integers: through scattered blocks, ragged batches, windows, both
// directions.
#include <algorithm>
#include <bit>
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

// Tokens of slices of one each that look at texts of these lengths, so many at each.
struct Readers {
  static constexpr int64_t kHeads = 3, kHeadDim = 16, kWidth = kHeads * kHeadDim, kBlocks = 24;
  const std::vector<int64_t> lengths{600, 25, 3, 40}, readers{4, 1, 60, 2};
  std::vector<int32_t> ids, positions;
  std::vector<std::vector<int32_t>> tables;  // of each reader
  std::vector<SliceView> apart, together;
  Buffer memory;
  KvLayout source{.n_layers = 1, .n_kv_heads = kHeads, .head_dim = kHeadDim};

  explicit Readers(KvType type) {
    source.type = type;
    const auto floats = static_cast<size_t>(kBlocks * source.block_bytes()) / sizeof(float);
    memory = Buffer::allocate(floats * sizeof(float), "test");
    for (size_t i = 0; const float x : normal_floats(floats, 5, 1.0f)) {
      const auto bits = std::bit_cast<uint32_t>(x), pair = (bits >> 16) * 0x10001;
      memory.as<uint32_t>()[i++] = type == KvType::kBf16 ? pair : bits;
    }
    source.data = memory.as<uint8_t>();
    int32_t block = 0;
    for (size_t text = 0; text < lengths.size(); ++text) {
      std::vector<int32_t> table(static_cast<size_t>((lengths[text] + kBlockSize - 1) / kBlockSize));
      std::iota(table.begin(), table.end(), block);
      block += static_cast<int32_t>(table.size());
      tables.insert(tables.end(), static_cast<size_t>(readers[text]), table);
    }
    ids = random_ids(static_cast<int64_t>(tables.size()), 6);
    positions.assign(ids.size(), 0);
    int64_t row = 0;
    for (size_t text = 0; text < lengths.size(); ++text) {
      const int32_t* const first = tables[static_cast<size_t>(row)].data();
      for (int64_t i = 0; i < readers[text]; ++i, ++row) {
        apart.push_back({row, row + 1, 0, nullptr, tables[static_cast<size_t>(row)].data(), lengths[text]});
        together.push_back({row, row + 1, 0, nullptr, first, lengths[text]});
      }
    }
  }

  std::vector<float> run(Executor& executor, const std::vector<SliceView>& slices) const {
    std::vector<float> out(ids.size() * kWidth);
    std::vector<int32_t> rows(ids.size());
    std::iota(rows.begin(), rows.end(), 0);
    const auto n = static_cast<int64_t>(ids.size());
    const BatchView batch{ids.data(), nullptr, positions.data(), n, slices.data(), n, rows.data(), n, &source};
    CHECK(executor.run(batch, {}, out.data(), {}));
    return out;
  }
};

TEST(beams_that_share_the_reads_of_a_source_have_the_bits_of_those_that_do_not) {
  Trace t(kContext);
  const Attributes heads{.scale = 0.3f,
                         .n_heads = Readers::kHeads,
                         .n_kv_heads = Readers::kHeads,
                         .head_dim = Readers::kHeadDim,
                         .cross = true};
  const Matrix table = Matrix::random(kVocab, Readers::kWidth, -3, 3, 7);
  const int x = t.apply(OpKind::kEmbedding, {}, {add_matrix(t, table)}, Readers::kWidth);
  const int y = t.apply(OpKind::kAttention, {x}, {}, Readers::kWidth, heads);
  const int rows = t.value(Readers::kWidth, {}, Space::kOutputs);
  t.instruction({OpKind::kSelect, {y}, {rows}, {}, {}});
  const auto program = std::make_shared<const Program>(t.take(rows));
  for (const KvType type : {KvType::kF32, KvType::kBf16, KvType::kInt8}) {
    const Readers readers(type);
    on_every_machine(program, [&](Executor& executor) {
      const std::vector<float> apart = readers.run(executor, readers.apart);
      const std::vector<float> together = readers.run(executor, readers.together);
      CHECK(std::memcmp(apart.data(), together.data(), apart.size() * sizeof(float)) == 0);
    });
  }
}

}  // namespace
}  // namespace jiffy
