// Programs of small integers: the executor must give their results exactly.
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "integer_programs.h"
#include "runtime/engine.h"

namespace jiffy {
namespace {

using namespace check;

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

TEST(executor_keeps_the_largest_logits_alone) {
  const Sums sums;
  const std::vector<int32_t> no_blocks;
  for (const bool fused : {false, true}) {
    on_every_machine(sums.program(fused), [&](Executor& executor) {
      CHECK(executor.head() != nullptr);
      for (const int64_t n : {1, 2, 13, 100, 3}) {
        const TestBatch batch(random_ids(n, static_cast<unsigned>(n)), {{0, n, &no_blocks}});
        const Matrix expected = sums.expected(batch);  // of small integers: many are equal
        for (const int64_t most : {1, 5, 64}) {
          KeptLogits kept(most);
          CHECK(executor.run(batch.view(), {}, Wanted::only(kept), {}));
          for (int64_t row = 0; row < n; ++row) {
            check_largest(kept, row,
                          {expected.data.begin() + row * kVocab, expected.data.begin() + (row + 1) * kVocab});
          }
        }
        CHECK(run(executor, batch, {}, kVocab) == expected.data);
      }
    });
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
