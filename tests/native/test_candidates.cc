// Some rows of a matrix instead of all: the same bits for each output that is left, whoever shares the step.
#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "integer_programs.h"
#include "kernel_testing.h"
#include "ops/work.h"
#include "quant/gather.h"
#include "runtime/chooser.h"
#include "runtime/log_softmax.h"

namespace jiffy {
namespace {

using namespace check;

std::vector<int32_t> some_of(int64_t n, size_t count, unsigned seed) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  std::shuffle(ids.begin(), ids.end(), std::mt19937(seed));
  ids.resize(count);
  std::sort(ids.begin(), ids.end());
  return ids;
}

// Rows of a weight in memory that held something else.
struct Gathered {
  std::vector<int32_t> ids;
  Buffer memory;
  PackedMatrix matrix;

  Gathered(const Weight& weight, std::vector<int32_t> rows, ThreadPool& pool) : ids(std::move(rows)) {
    const RowsOfMatrix all(weight.matrix(), pool);
    const auto n = static_cast<int64_t>(ids.size());
    memory = Buffer::allocate(static_cast<size_t>(n_slabs(n) * all.bytes_of_slab()), "test");
    std::fill_n(memory.as<uint8_t>(), memory.size(), uint8_t{0xa5});
    matrix = {memory.as<uint8_t>(), all.bytes_of_slab(), n, all.cols(), all.format()};
    for (int64_t slab = 0; slab < n_slabs(n); ++slab) {
      all.gather_slab(ids.data(), n, slab, memory.as<uint8_t>() + slab * all.bytes_of_slab());
    }
  }
};

TEST(gathered_rows_are_those_of_the_matrix) {
  ThreadPool pool(3);
  for (const WeightFormat& format : all_formats()) {
    for (const int64_t cols : {1, 96, 290}) {
      const auto weight = random_weight(83, cols, format, pool);
      for (const size_t count : {1, 15, 16, 33, 83}) {
        const Gathered some(*weight, some_of(83, count, static_cast<unsigned>(count)), pool);
        size_t wrong = 0;
        for (size_t i = 0; i < count; ++i) {
          for (int64_t col = 0; col < cols; ++col) {
            wrong += reference_weight(some.matrix, static_cast<int64_t>(i), col) !=
                     reference_weight(weight->matrix(), some.ids[i], col);
          }
        }
        CHECK_EQ(wrong, 0);
        // All rows are the matrix itself, its lanes without a row and its padded columns included.
        const auto bytes = static_cast<size_t>(weight->bytes());
        if (count < 83 || format.offset == Offset::kZero) continue;  // whose lanes without a row random_weight() fills
        CHECK(std::memcmp(some.memory.data(), weight->matrix().data, bytes) == 0);
      }
    }
  }
}

ActivationView quantised(std::vector<uint8_t>& memory, int64_t rows, int64_t cols, const RowFormat& format, bool wide) {
  memory.assign(static_cast<size_t>(rows * activation_row_bytes(cols, format)), 0);
  return activation_view(memory.data(), rows, cols, format, wide);
}

TEST(rows_of_activations_are_copied_into_other_tiles) {
  std::mt19937 rng(1);
  std::vector<uint8_t> all, some;
  for (const RowFormat& format :
       {RowFormat{8, 32}, RowFormat{8, 32, true}, RowFormat{8, 64}, RowFormat{8, 128}, RowFormat{16, 2}}) {
    for (const bool from_wide : {false, true}) {
      for (const bool to_wide : {false, true}) {
        for (const int64_t rows : {1, 12, 13, 40}) {
          const ActivationView from = quantised(all, rows, 150, format, from_wide);
          for (uint8_t& byte : all) byte = static_cast<uint8_t>(rng() % 60);  // no NaN among floats
          const int64_t n = std::min<int64_t>(rows, 7), first = rows - n;
          const ActivationView to = quantised(some, n, 150, format, to_wide);
          copy_rows(from, first, to);
          size_t wrong = 0;
          for (int64_t r = 0; r < n; ++r) {
            for (int64_t c = 0; c < 150; ++c) {
              wrong += reference_activation(to, r, c) != reference_activation(from, first + r, c);
            }
          }
          CHECK_EQ(wrong, 0);
          // Sums of a row's groups, which references don't look at: as many as there are, of the same sizes.
          if (format.bits != 8 || n != rows || from_wide != to_wide) continue;
          CHECK(all == some);
        }
      }
    }
  }
}

// logits = embedding head^T + bias, the head in any format
struct Head {
  static constexpr int64_t kIn = 96, kTokens = 600;
  std::shared_ptr<Weight> weight;
  std::vector<float> bias = normal(kTokens, 3);
  std::shared_ptr<const Program> program;

  Head(const WeightFormat& format, ThreadPool& pool) : weight(random_weight(kTokens, kIn, format, pool)) {
    Trace t(kContext);
    const int x = t.apply(OpKind::kEmbedding, {}, {t.matrix(random_weight(kVocab, kIn, {}, pool))}, kIn, {.scale = 1});
    const int rows = t.value(kIn, {}, Space::kOutputs);
    t.instruction({OpKind::kSelect, {x}, {rows}, {}, {}});
    program = std::make_shared<const Program>(t.take(t.matmul(rows, t.matrix(weight), t.floats("bias", bias))));
  }
};

// A batch whose rows go in runs of these lengths to candidates of their own, as many as `counts` says.
struct Runs {
  std::vector<Gathered> of;
  std::vector<std::vector<float>> bias;
  std::vector<CandidateRun> runs;

  Runs(const Head& head, const std::vector<int64_t>& lengths, const std::vector<size_t>& counts, ThreadPool& pool) {
    int64_t row = 0;
    for (size_t i = 0; i < lengths.size(); ++i) {
      of.emplace_back(*head.weight, some_of(Head::kTokens, counts[i], static_cast<unsigned>(i)), pool);
      bias.emplace_back();
      for (const int32_t id : of[i].ids) bias[i].push_back(head.bias[static_cast<size_t>(id)]);
      runs.push_back({row, row + lengths[i], of[i].matrix, bias[i].data()});
      row += lengths[i];
    }
  }
};

// And what is kept of each row is the same, without logits.
void check_logits(const Runs& runs, const std::vector<float>& all, const std::vector<float>& found,
                  const KeptLogits& kept) {
  size_t wrong = 0;
  LogSoftmax with_logits(select_kernels("auto")), without(select_kernels("auto"));
  for (size_t i = 0; i < runs.runs.size(); ++i) {
    const std::vector<int32_t>& ids = runs.of[i].ids;
    for (int64_t row = runs.runs[i].begin; row < runs.runs[i].end; ++row) {
      const auto begin = static_cast<size_t>(row * Head::kTokens);
      for (size_t place = 0; place < ids.size(); ++place) {
        wrong += found[begin + place] != all[begin + static_cast<size_t>(ids[place])];
      }
      const std::vector<float> logits(found.begin() + row * Head::kTokens,
                                      found.begin() + row * Head::kTokens + static_cast<int64_t>(ids.size()));
      check_largest(kept, row, logits);
      with_logits.read(logits.data(), static_cast<int64_t>(logits.size()));
      without.read(kept.blocks.data() + row * kept.n_blocks, kept.n_blocks);
      wrong += with_logits.of_logit(logits[0]) != without.of_logit(logits[0]);
    }
  }
  CHECK_EQ(wrong, 0);
}

TEST(candidates_have_the_logits_that_they_have_among_all) {
  const std::vector<int32_t> no_blocks;
  ThreadPool pool(2);
  for (const WeightFormat& format : all_formats()) {
    const Head head(format, pool);
    for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{1}, {50}, {1, 3, 14, 1, 27}}) {
      const Runs runs(head, lengths, {40, 5, 600, 1, 297}, pool);
      const int64_t n = runs.runs.back().end;
      const TestBatch batch(random_ids(n, 9), {{0, n, &no_blocks}});
      BatchView view = batch.view();
      view.candidates = runs.runs;
      on_every_machine(head.program, [&](Executor& executor) {
        CHECK(executor.head() != nullptr);
        const std::vector<float> all = run(executor, batch, {}, Head::kTokens);
        std::vector<float> found(all.size());
        KeptLogits kept(9, true);
        CHECK(executor.run(view, {}, found.data(), {}));
        CHECK(executor.run(view, {}, Wanted::only(kept), {}));
        check_logits(runs, all, found, kept);
        CHECK(run(executor, batch, {}, Head::kTokens) == all);
      });
    }
  }
}

TEST(the_work_of_candidates_is_that_of_their_rows) {
  ThreadPool pool(1);
  const Head head(parse_format("i8g32", "test"), pool);
  const Runs runs(head, {2, 5}, {40, 7}, pool);
  const std::vector<int32_t> no_blocks;
  const TestBatch batch(random_ids(7, 9), {{0, 7, &no_blocks}});
  BatchView view = batch.view();
  view.candidates = runs.runs;
  Work last;
  const Observer note = [&](const Observation& seen) { last = work(seen.call); };
  std::vector<float> logits(7 * Head::kTokens);
  Executor executor(head.program, pool, select_kernels("auto"));
  CHECK(executor.run(view, {}, logits.data(), {}, note));
  CHECK_EQ(last.operations, 2 * Head::kIn * (2 * 40 + 5 * 7));
  CHECK_EQ(last.bytes, (3 + 1) * slab_bytes(head.weight->matrix().format, Head::kIn));
}

TEST(a_program_that_ends_otherwise_has_no_head_for_candidates) {
  ThreadPool pool(1);
  Trace t(kContext);
  const int x = t.apply(OpKind::kEmbedding, {}, {t.matrix(random_weight(kVocab, kDim, {}, pool))}, kDim, {.scale = 1});
  const int rows = t.value(kDim, {}, Space::kOutputs);
  t.instruction({OpKind::kSelect, {x}, {rows}, {}, {}});
  const Executor executor(std::make_shared<const Program>(t.take(rows)), pool, select_kernels("auto"));
  CHECK(executor.head() == nullptr);
}

TEST(a_row_of_candidates_knows_its_tokens) {
  std::vector<float> values{1.0f, 2.0f, 3.0f};
  const std::vector<int32_t> ids{4, 7, 30};
  const LogitRow some{values.data(), 3, ids.data()}, all{values.data(), 3};
  CHECK_EQ(some.id(2), 30);
  CHECK_EQ(all.id(2), 2);
  for (const int32_t id : {-1, 0, 5, 31}) CHECK_EQ(some.place(id), -1);
  for (const int32_t id : {-1, 3}) CHECK_EQ(all.place(id), -1);
  for (int64_t place = 0; place < 3; ++place) CHECK_EQ(some.place(some.id(place)), place);
}

}  // namespace
}  // namespace jiffy
