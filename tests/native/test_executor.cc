// Programs of small integers, whose results are exact whatever the order of additions: the executor must give them.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "check.h"
#include "kernels/cpu/select.h"
#include "program/executor.h"
#include "runtime/engine.h"
#include "support.h"

namespace jiffy {
namespace {

using check::Trace;

constexpr int64_t kVocab = 23, kDim = 20, kContext = 200;

// [rows, cols] integers.
struct Matrix {
  int64_t rows = 0, cols = 0;
  std::vector<float> data;

  Matrix(int64_t rows, int64_t cols) : rows(rows), cols(cols), data(static_cast<size_t>(rows * cols)) {}

  static Matrix random(int64_t rows, int64_t cols, int least, int most, unsigned seed) {
    std::mt19937 rng(seed);
    Matrix m(rows, cols);
    for (float& x : m.data) x = static_cast<float>(std::uniform_int_distribution<int>(least, most)(rng));
    return m;
  }

  float& at(int64_t row, int64_t col) { return data[static_cast<size_t>(row * cols + col)]; }
  float at(int64_t row, int64_t col) const { return data[static_cast<size_t>(row * cols + col)]; }
};

int add_matrix(Trace& t, const Matrix& m) {
  ThreadPool pool(1);
  auto weight = Weight::create("w", m.rows, m.cols, {});
  weight->pack_rows(0, m.rows, reinterpret_cast<const uint8_t*>(m.data.data()), SourceType::kF32, pool);
  return t.matrix(std::move(weight));
}

Matrix embed(const Matrix& table, const std::vector<int32_t>& ids) {
  Matrix x(static_cast<int64_t>(ids.size()), table.cols);
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) x.at(r, c) = table.at(ids[static_cast<size_t>(r)], c);
  }
  return x;
}

Matrix product(const Matrix& x, const Matrix& w) {
  Matrix y(x.rows, w.rows);
  for (int64_t r = 0; r < y.rows; ++r) {
    for (int64_t n = 0; n < y.cols; ++n) {
      for (int64_t k = 0; k < x.cols; ++k) y.at(r, n) += x.at(r, k) * w.at(n, k);
    }
  }
  return y;
}

Matrix sum(Matrix a, const Matrix& b) {
  for (size_t i = 0; i < a.data.size(); ++i) a.data[i] += b.data[i % b.data.size()];  // b may be one row
  return a;
}

struct Part {  // of a batch: consecutive tokens of one sequence
  int64_t position, count;
  const std::vector<int32_t>* block_table;
};

// A batch of the given tokens, all of whose rows are outputs, or every other one.
class TestBatch {
 public:
  TestBatch(std::vector<int32_t> ids, const std::vector<Part>& parts, int64_t output_step = 1) : ids_(std::move(ids)) {
    for (const Part& part : parts) {
      const int64_t first = static_cast<int64_t>(positions_.size());
      for (int64_t i = 0; i < part.count; ++i) positions_.push_back(static_cast<int32_t>(part.position + i));
      slices_.push_back({first, first + part.count, part.position, part.block_table->data()});
    }
    for (size_t row = 0; row < ids_.size(); row += static_cast<size_t>(output_step)) {
      outputs_.push_back(static_cast<int32_t>(row));
    }
  }

  BatchView view() const {
    return {ids_.data(),     positions_.data(), n_tokens(), slices_.data(), static_cast<int64_t>(slices_.size()),
            outputs_.data(), n_outputs()};
  }
  int64_t n_tokens() const { return static_cast<int64_t>(ids_.size()); }
  int64_t n_outputs() const { return static_cast<int64_t>(outputs_.size()); }
  const std::vector<int32_t>& ids() const { return ids_; }

  // The rows that were asked for.
  Matrix select(const Matrix& rows) const {
    Matrix y(n_outputs(), rows.cols);
    for (int64_t i = 0; i < y.rows; ++i) {
      for (int64_t c = 0; c < y.cols; ++c) y.at(i, c) = rows.at(outputs_[static_cast<size_t>(i)], c);
    }
    return y;
  }

 private:
  std::vector<int32_t> ids_, positions_, outputs_;
  std::vector<SliceView> slices_;
};

std::vector<int32_t> random_ids(int64_t n, unsigned seed) {
  std::mt19937 rng(seed);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng() % kVocab);
  return ids;
}

void on_every_machine(const std::shared_ptr<const Program>& program, const std::function<void(Executor&)>& body) {
  for (const std::string& isa : supported_isas()) {
    for (const int n_threads : {1, 2, 3}) {
      ThreadPool pool(n_threads);
      Executor executor(program, pool, select_kernels(isa));
      body(executor);
    }
  }
}

// result = select(x a^T + bias + (x + x) b^T) c^T
struct Sums {
  const Matrix table = Matrix::random(kVocab, kDim, -3, 3, 1), a = Matrix::random(37, kDim, -2, 2, 2),
               b = Matrix::random(37, kDim, -2, 2, 3), bias = Matrix::random(1, 37, -5, 5, 4),
               c = Matrix::random(kVocab, 37, -2, 2, 5);

  std::shared_ptr<const Program> program(bool fused) const {
    Trace t(kContext);
    const int x = t.apply(OpKind::kEmbedding, {}, {add_matrix(t, table)}, kDim);
    const int twice = t.apply(OpKind::kAdd, {x, x}, {}, kDim);
    const int left = t.matmul(x, add_matrix(t, a), t.floats("bias", bias.data));
    const int right = t.matmul(twice, add_matrix(t, b));
    const int y = t.apply(OpKind::kAdd, {left, right}, {}, 37);
    const int rows = t.value(37, {}, Space::kOutputs);
    t.instruction({OpKind::kSelect, {y}, {rows}, {}, {}});
    const Program unfused(t.take(t.matmul(rows, add_matrix(t, c))));
    return std::make_shared<const Program>(fused ? fuse(unfused) : unfused.spec());
  }

  Matrix expected(const TestBatch& batch) const {
    const Matrix x = embed(table, batch.ids());
    return product(batch.select(sum(sum(product(x, a), bias), product(sum(x, x), b))), c);
  }
};

// Whatever was in `result` before, behind its end nothing is written.
std::vector<float> run(Executor& executor, const TestBatch& batch, const KvLayout& kv, int64_t width) {
  constexpr float kUntouched = 12345.0f;
  const size_t size = static_cast<size_t>(batch.n_outputs() * width);
  std::vector<float> result(size + 100, kUntouched);
  CHECK(executor.run(batch.view(), kv, result.data(), {}));
  for (size_t i = size; i < result.size(); ++i) CHECK_EQ(result[i], kUntouched);
  result.resize(size);
  return result;
}

TEST(executor_computes_what_the_program_says_for_batches_of_any_size) {
  const Sums sums;
  const std::vector<int32_t> no_blocks;
  for (const bool fused : {false, true}) {
    on_every_machine(sums.program(fused), [&](Executor& executor) {
      for (const int64_t n : {1, 2, 5, 13, 100, 3, 64}) {  // smaller ones again in the memory of larger ones
        for (const int64_t output_step : {1, 2, 1000}) {
          const TestBatch batch(random_ids(n, static_cast<unsigned>(n)), {{0, n, &no_blocks}}, output_step);
          CHECK(run(executor, batch, {}, kVocab) == sums.expected(batch).data);
        }
      }
    });
  }
}

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

TEST(executor_asks_on_the_calling_thread_and_stops_only_when_told) {
  static const Kernels& fast = select_kernels("auto");
  Kernels slow = fast;
  slow.add = [](const AddArgs& args) {
    std::this_thread::sleep_for(std::chrono::milliseconds(60));  // longer than the 50 ms between questions
    fast.add(args);
  };
  const Sums sums;
  ThreadPool pool(2);
  Executor executor(sums.program(false), pool, slow);
  const std::vector<int32_t> no_blocks;
  const TestBatch batch(random_ids(6, 1), {{0, 6, &no_blocks}});
  std::vector<float> result(6 * kVocab);
  int questions = 0;
  const auto ask = [&](bool answer) {
    return [&, answer, caller = std::this_thread::get_id()] {
      ++questions;
      CHECK(std::this_thread::get_id() == caller);
      return answer;
    };
  };
  CHECK(!executor.run(batch.view(), {}, result.data(), ask(true)));
  CHECK_EQ(questions, 1);
  CHECK(executor.run(batch.view(), {}, result.data(), ask(false)));
  CHECK(questions >= 3);  // there are two additions
  CHECK(result == sums.expected(batch).data);
}

TEST(executor_refuses_forked_children_and_goes_on_after_a_step_too_large) {
  const Sums sums;
  ThreadPool pool(2);
  Executor executor(sums.program(true), pool, select_kernels("auto"));
  const std::vector<int32_t> no_blocks;
  const TestBatch batch(random_ids(6, 1), {{0, 6, &no_blocks}});
  BatchView huge = batch.view();
  huge.n_tokens = int64_t{1} << 42;
  CHECK_THROWS(ErrorKind::kOutOfMemory, executor.run(huge, {}, nullptr, {}));
  CHECK(run(executor, batch, {}, kVocab) == sums.expected(batch).data);
  CHECK(check::succeeds_in_child([&] {
    try {
      std::vector<float> result(6 * kVocab);
      executor.run(batch.view(), {}, result.data(), {});
    } catch (const Error& error) {
      return error.kind == ErrorKind::kFork;
    }
    return false;
  }));
}

std::vector<float> tiny_logits(KvType type, bool fused, const std::string& isa, int n_threads, int64_t chunk) {
  const EngineOptions options{.context = 700, .max_batch = 1, .prefill_chunk = chunk, .kv_type = type};
  Engine engine(check::tiny_program(700, fused), std::make_shared<ThreadPool>(n_threads), select_kernels(isa), options);
  std::vector<int32_t> ids = random_ids(600, 5);  // more than a segment of attention
  std::vector<float> out(ids.size() * check::kTinyVocab);
  engine.logits(std::move(ids), out.data(), {});
  return out;
}

TEST(fused_programs_give_the_same_bits_on_every_machine) {
  for (const KvType type : {KvType::kF32, KvType::kBf16, KvType::kInt8}) {
    const std::vector<float> expected = tiny_logits(type, false, "scalar", 1, 512);
    for (const std::string& isa : supported_isas()) {
      for (const int n_threads : {1, 2, 3}) {
        for (const bool fused : {false, true}) {
          const int64_t chunk = n_threads == 3 ? 7 : fused ? 64 : 100;
          CHECK(tiny_logits(type, fused, isa, n_threads, chunk) == expected);
        }
      }
    }
  }
}

}  // namespace
}  // namespace jiffy
