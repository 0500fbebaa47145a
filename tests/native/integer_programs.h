// Programs of small integers, whose results are exact whatever the order of additions.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "kernels/cpu/select.h"
#include "program/executor.h"
#include "support.h"

namespace jiffy::check {

inline constexpr int64_t kVocab = 23, kDim = 20, kContext = 200;

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

inline int add_matrix(Trace& t, const Matrix& m) {
  ThreadPool pool(1);
  auto weight = Weight::create("w", m.rows, m.cols, {});
  weight->pack_rows(0, m.rows, reinterpret_cast<const uint8_t*>(m.data.data()), SourceType::kF32, pool);
  return t.matrix(std::move(weight));
}

inline Matrix embed(const Matrix& table, const std::vector<int32_t>& ids) {
  Matrix x(static_cast<int64_t>(ids.size()), table.cols);
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) x.at(r, c) = table.at(ids[static_cast<size_t>(r)], c);
  }
  return x;
}

inline Matrix product(const Matrix& x, const Matrix& w) {
  Matrix y(x.rows, w.rows);
  for (int64_t r = 0; r < y.rows; ++r) {
    for (int64_t n = 0; n < y.cols; ++n) {
      for (int64_t k = 0; k < x.cols; ++k) y.at(r, n) += x.at(r, k) * w.at(n, k);
    }
  }
  return y;
}

inline Matrix sum(Matrix a, const Matrix& b) {
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
    return {ids_.data(),     nullptr,        positions_.data(),
            n_tokens(),      slices_.data(), static_cast<int64_t>(slices_.size()),
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

inline std::vector<int32_t> random_ids(int64_t n, unsigned seed) {
  std::mt19937 rng(seed);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng() % kVocab);
  return ids;
}

inline void on_every_machine(const std::shared_ptr<const Program>& program,
                             const std::function<void(Executor&)>& body) {
  for (const std::string& isa : supported_isas()) {
    for (const int n_threads : {1, 2, 3}) {
      ThreadPool pool(n_threads);
      Executor executor(program, pool, select_kernels(isa));
      body(executor);
    }
  }
}

// What was kept of a row is the beginning of all in order.
inline void check_largest(const KeptLogits& kept, int64_t row, const std::vector<float>& logits) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto value = [&](int32_t place) { return logits[static_cast<size_t>(place)]; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return value(a) > value(b); });
  for (size_t i = 0; i < static_cast<size_t>(kept.most); ++i) {
    const KeptLogit& one = kept.row(static_cast<size_t>(row))[i];
    CHECK_EQ(one.place, i < order.size() ? order[i] : -1);
    if (one.place >= 0) CHECK_EQ(one.logit, value(one.place));
  }
}

// Whatever was in `result` before, behind its end nothing is written.
inline std::vector<float> run(Executor& executor, const TestBatch& batch, const KvLayout& kv, int64_t width) {
  constexpr float kUntouched = 12345.0f;
  const size_t size = static_cast<size_t>(batch.n_outputs() * width);
  std::vector<float> result(size + 100, kUntouched);
  CHECK(executor.run(batch.view(), kv, result.data(), {}));
  for (size_t i = size; i < result.size(); ++i) CHECK_EQ(result[i], kUntouched);
  result.resize(size);
  return result;
}

}  // namespace jiffy::check
