// What an observer of a step is told, and what is recorded and counted with it.
#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "kernels/cpu/select.h"
#include "ops/work.h"
#include "program/executor.h"
#include "runtime/engine.h"
#include "runtime/recorder.h"
#include "support.h"

namespace jiffy {
namespace {

constexpr int64_t kContext = 64, kTokens = 50;

std::vector<int32_t> prompt() {
  std::vector<int32_t> ids(kTokens);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 7 % check::kTinyVocab);
  return ids;
}

Engine make_engine(const std::shared_ptr<const Program>& program, int n_threads, int64_t chunk) {
  const EngineOptions options{.context = kContext, .max_batch = 1, .prefill_chunk = chunk};
  return {program, std::make_shared<ThreadPool>(n_threads), select_kernels("auto"), options};
}

TEST(an_observer_sees_every_instruction_of_every_step_on_the_calling_thread) {
  for (const bool fused : {false, true}) {
    for (const int n_threads : {1, 2, 3}) {
      const auto program = check::tiny_program(kContext, fused);
      Engine engine = make_engine(program, n_threads, 20);
      std::vector<size_t> seen;
      int64_t n_tokens = 0;
      std::vector<float> got(kTokens * check::kTinyVocab), expected = got, observed = got;
      const auto caller = std::this_thread::get_id();
      engine.logits(prompt(), expected.data(), {});
      engine.logits(prompt(), got.data(), {}, [&](const Observation& o) {
        CHECK(std::this_thread::get_id() == caller);
        CHECK(o.seconds > 0);
        CHECK(&o.call.at == &program->instructions()[o.index]);
        if (o.index == 0) n_tokens += o.call.batch.n_tokens;
        const std::vector<int>& outputs = o.call.at.outputs;
        if (std::find(outputs.begin(), outputs.end(), program->result()) != outputs.end()) {
          const Operand& rows = o.call.operands[static_cast<size_t>(program->result())];
          std::copy_n(rows.floats(), rows.rows * check::kTinyVocab,
                      observed.begin() + o.call.batch.slices[0].position * check::kTinyVocab);
        }
        seen.push_back(o.index);
      });
      CHECK(got == expected);
      CHECK(observed == expected);
      CHECK_EQ(n_tokens, kTokens);
      const size_t n = program->instructions().size();
      CHECK_EQ(seen.size(), 3 * n);  // chunks of 20, 20 and 10
      for (size_t i = 0; i < seen.size(); ++i) CHECK_EQ(seen[i], i % n);
    }
  }
}

TEST(an_observed_step_can_be_interrupted) {
  Engine engine = make_engine(check::tiny_program(kContext, true), 2, 20);
  std::vector<float> out(kTokens * check::kTinyVocab), expected = out;
  engine.logits(prompt(), expected.data(), {});
  int64_t seen = 0;
  const auto slow = [&](const Observation&) {
    ++seen;
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
  };
  bool stopped = false;
  try {
    engine.logits(prompt(), out.data(), [] { return true; }, slow);
  } catch (const Interruption&) {
    stopped = true;
  }
  CHECK(stopped);
  CHECK(seen >= 2 && seen <= 4);
  engine.logits(prompt(), out.data(), {});
  CHECK(out == expected);
}

// All values of the program, from a run on some threads in some chunks.
std::vector<std::vector<float>> record(const Program& program, const std::vector<int>& values, Engine& engine) {
  Recorder recorder(program, values, kTokens);
  std::vector<float> out(kTokens * check::kTinyVocab);
  engine.logits(prompt(), out.data(), {}, std::ref(recorder));
  std::vector<std::vector<float>> rows;
  for (size_t i = 0; i < values.size(); ++i) {
    rows.emplace_back(recorder.rows(i), recorder.rows(i) + kTokens * recorder.width(i));
  }
  return rows;
}

TEST(recorded_values_do_not_depend_on_threads_chunks_or_fusion) {
  const auto program = check::tiny_program(kContext, false), fused = check::tiny_program(kContext, true);
  std::vector<int> all, kept;
  for (const Instruction& at : program->instructions()) all.insert(all.end(), at.outputs.begin(), at.outputs.end());
  for (const Instruction& at : fused->instructions()) kept.insert(kept.end(), at.outputs.begin(), at.outputs.end());
  CHECK(kept.size() < all.size());
  Engine one = make_engine(program, 1, kContext), many = make_engine(program, 3, 7),
         short_one = make_engine(fused, 2, 9);
  CHECK(record(*program, all, one) == record(*program, all, many));
  CHECK(record(*program, kept, one) == record(*fused, kept, short_one));
}

TEST(recorded_quantised_rows_are_the_floats_that_they_stand_for) {
  const auto program = check::tiny_program(kContext, false);
  Engine engine = make_engine(program, 2, 13);
  int64_t n_seen = 0;
  for (const Instruction& at : program->instructions()) {
    if (at.op != OpKind::kQuantize) continue;
    const auto rows = record(*program, {at.inputs[0], at.outputs[0]}, engine);
    const Value& type = program->values()[static_cast<size_t>(at.outputs[0])];
    for (size_t i = 0; i < rows[0].size(); ++i) {
      const int64_t row = static_cast<int64_t>(i) / type.width, col = static_cast<int64_t>(i) % type.width;
      const int64_t first = col / type.format.group * type.format.group;
      const auto largest = [&](int64_t begin, int64_t end) {
        float most = 0.0f;
        for (int64_t c = begin; c < std::min(end, type.width); ++c) {
          most = std::max(most, std::abs(rows[0][static_cast<size_t>(row * type.width + c)]));
        }
        return most;
      };
      float most = largest(first, first + type.format.group);
      if (type.format.powers) {
        float step = largest(0, type.width);
        while (step / 2 >= most) step /= 2;
        most = step;
      }
      const float bound = type.format.bits == 8 ? most / 254.0f * 1.0001f : std::abs(rows[0][i]) * 0x1p-8f;
      CHECK(std::abs(rows[0][i] - rows[1][i]) <= bound);
    }
    ++n_seen;
  }
  CHECK(n_seen > 4);
}

TEST(recorder_refuses_values_that_the_program_does_not_make) {
  const auto program = check::tiny_program(kContext, false), fused = check::tiny_program(kContext, true);
  for (const int value : {-1, static_cast<int>(program->values().size())}) {
    CHECK_THROWS(ErrorKind::kParameter, Recorder(*program, {value}, kTokens));
  }
  int64_t n_fused = 0;
  for (const Instruction& at : program->instructions()) {
    if (at.op != OpKind::kRmsNorm) continue;
    Recorder(*program, at.outputs, kTokens);
    const auto makes = [&](const Instruction& other) { return other.outputs == at.outputs; };
    if (std::none_of(fused->instructions().begin(), fused->instructions().end(), makes)) {
      CHECK_THROWS(ErrorKind::kParameter, Recorder(*fused, at.outputs, kTokens));
      ++n_fused;
    }
  }
  CHECK(n_fused > 0);
}

TEST(work_is_the_same_whether_fused_or_not_and_attention_grows_with_the_context) {
  Work sums[2];
  for (const bool fused : {false, true}) {
    Engine engine = make_engine(check::tiny_program(kContext, fused), 2, 20);
    std::vector<float> out(kTokens * check::kTinyVocab);
    std::vector<int64_t> attention;
    engine.logits(prompt(), out.data(), {}, [&](const Observation& o) {
      const Work mine = work(o.call);
      sums[fused].bytes += mine.bytes;
      sums[fused].operations += mine.operations;
      if (o.call.at.op != OpKind::kAttention) return;
      const Attributes& a = o.call.at.attributes;
      const int64_t first = o.call.batch.slices[0].position, n = o.call.batch.n_tokens;
      int64_t pairs = 0;
      for (int64_t p = first; p < first + n; ++p) pairs += p + 1;
      CHECK_EQ(mine.operations, 4 * pairs * a.n_heads * a.head_dim);
      CHECK_EQ(mine.bytes, (first + n) * o.call.kv.block_bytes() / kBlockSize / o.call.kv.n_layers);
    });
  }
  CHECK_EQ(sums[0].operations, sums[1].operations);
  CHECK(sums[1].bytes <= sums[0].bytes);  // fused rope reads its tables once for q and k
}

TEST(work_of_a_matmul_is_its_weights_and_two_operations_for_each_of_them_and_row) {
  check::Trace t(kContext);
  auto table = Weight::create("table", 16, 64, {}), head = Weight::create("head", 16, 64, {.bits = 4, .group = 32});
  const int x = t.apply(OpKind::kEmbedding, {}, {t.matrix(table)}, 64);
  const int rows = t.value(64, {}, Space::kOutputs);
  t.instruction({OpKind::kSelect, {x}, {rows}, {}, {}});
  const auto program = std::make_shared<const Program>(t.take(t.matmul(rows, t.matrix(head))));
  ThreadPool pool(1);
  Executor executor(program, pool, select_kernels("auto"));
  const std::vector<int32_t> ids{1, 2, 3}, positions{0, 1, 2}, outputs{0, 2};
  const SliceView slice{0, 3, 0, nullptr};
  std::vector<float> result(2 * 16);
  const auto observer = [&](const Observation& o) {
    const Work mine = work(o.call);
    const bool matmul = o.call.at.op == OpKind::kMatmul, embedding = o.call.at.op == OpKind::kEmbedding;
    CHECK_EQ(mine.operations, matmul ? 2 * 2 * 16 * 64 : 0);
    CHECK_EQ(mine.bytes, matmul ? head->bytes() : embedding ? 3 * 64 * 4 : 0);
    CHECK(mine.arithmetic == (matmul ? Arithmetic::kInt8 : Arithmetic::kF32));
  };
  CHECK(executor.run({ids.data(), nullptr, positions.data(), 3, &slice, 1, outputs.data(), 2}, {}, result.data(), {},
                     observer));
}

}  // namespace
}  // namespace jiffy
