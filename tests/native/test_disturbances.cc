// An engine whose steps are interrupted at every place, while its sequences prefill, decode and lose their blocks.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "kernels/cpu/select.h"
#include "runtime/engine.h"
#include "support.h"

namespace jiffy {
namespace {

std::atomic<int64_t> calls_until_sleep{-1};  // calls of the kernel below; negative: none sleeps
std::atomic<int64_t> calls{0};
std::atomic<bool> has_slept{false};

const Kernels& fast_kernels() {
  static const Kernels& kernels = select_kernels("auto");
  return kernels;
}

// The fastest kernels, of which one call sleeps for longer than the 50 ms between the executor's questions.
const Kernels& slow_kernels() {
  static const Kernels slow = [] {
    Kernels kernels = fast_kernels();
    kernels.matmul = [](const MatmulArgs& args) {
      ++calls;
      if (calls_until_sleep-- == 0) {
        has_slept = true;
        std::this_thread::sleep_for(std::chrono::milliseconds(55));
      }
      fast_kernels().matmul(args);
    };
    return kernels;
  }();
  return slow;
}

// Once for every sleep. A caller that always wants to stop would never get through a step that itself takes 50 ms,
// as it does under the thread sanitiser.
bool stop_after_sleep() { return has_slept.exchange(false); }

using Answers = std::map<int64_t, std::vector<int32_t>>;

struct Workload {
  std::vector<std::vector<int32_t>> prompts;
  std::vector<SamplingParams> params;
};

// Four sequences that together need more blocks than the 64 that there are.
Workload crowd() {
  std::mt19937 rng(1);
  Workload load;
  for (uint64_t i = 0; i < 4; ++i) {
    std::vector<int32_t> prompt(static_cast<size_t>(590 + 3 * i));
    for (int32_t& id : prompt) id = static_cast<int32_t>(rng() % check::kOverflowing);
    load.prompts.push_back(std::move(prompt));
    load.params.push_back({.max_tokens = 40, .temperature = i % 2 == 0 ? 0.0f : 0.8f, .seed = i});
  }
  return load;
}

std::unique_ptr<Engine> crowded_engine(const Kernels& kernels) {
  const EngineOptions options{.context = 1024, .max_batch = 4, .prefill_chunk = 160};
  return std::make_unique<Engine>(check::tiny_program(1024, false), std::make_shared<ThreadPool>(2), kernels, options);
}

void add_all(Engine& engine, const Workload& load) {
  for (size_t i = 0; i < load.prompts.size(); ++i) engine.add(load.prompts[i], load.params[i]);
}

TEST(steps_interrupted_anywhere_leave_every_sequence_as_it_was) {
  const Workload load = crowd();
  Answers expected, got;
  const auto calm = crowded_engine(slow_kernels());
  add_all(*calm, load);
  CHECK_EQ(calm->n_blocks(), 64);
  int64_t fewest_free = 64;
  while (!calm->idle()) {
    for (const TokenEvent& event : calm->step({})) expected[event.request].push_back(event.token);
    fewest_free = std::min(fewest_free, calm->n_free_blocks());
  }
  CHECK(fewest_free < 4);  // else nobody lost a block

  const auto disturbed = crowded_engine(slow_kernels());
  add_all(*disturbed, load);
  std::mt19937 rng(7);
  int interruptions = 0;
  while (!disturbed->idle()) {
    if (rng() % 3 == 0) calls_until_sleep = static_cast<int64_t>(rng() % 150);  // a step makes 30 to 200 calls
    try {
      for (const TokenEvent& event : disturbed->step(stop_after_sleep)) got[event.request].push_back(event.token);
    } catch (const Interruption&) {
      ++interruptions;
    }
  }
  calls_until_sleep = -1;
  has_slept = false;
  CHECK(got == expected);
  CHECK(interruptions > 10);
  CHECK_EQ(disturbed->n_free_blocks(), 64);
}

TEST(logits_interrupted_anywhere_leave_the_batch_as_it_was) {
  const Workload load = crowd();
  const auto engine = crowded_engine(slow_kernels());
  std::vector<float> calm(load.prompts[0].size() * check::kTinyVocab), again(calm.size());
  calls = 0;
  engine->logits(load.prompts[0], calm.data(), {});
  const int64_t calls_in_all = calls;
  engine->add(load.prompts[1], load.params[1]);
  engine->step({});
  for (int64_t i = 0; i < 10; ++i) {
    calls_until_sleep = calls_in_all * i / 10;
    try {
      engine->logits(load.prompts[0], again.data(), stop_after_sleep);
      CHECK(i == 9);  // the sleep came too late
    } catch (const Interruption&) {
    }
    CHECK_EQ(engine->n_free_blocks(), 64 - 160 / kBlockSize);
  }
  calls_until_sleep = -1;
  has_slept = false;
  engine->logits(load.prompts[0], again.data(), {});
  CHECK(again == calm);
}

// Preempts all that run: the other request goes on with the same tokens.
TEST(logits_that_need_every_block_only_delay_others) {
  const Workload load = crowd();
  const auto alone = crowded_engine(fast_kernels()), disturbed = crowded_engine(fast_kernels());
  std::vector<float> out(load.prompts[0].size() * check::kTinyVocab);
  Answers expected, got;
  for (Engine* engine : {alone.get(), disturbed.get()}) add_all(*engine, load);
  while (!alone->idle()) {
    for (const TokenEvent& event : alone->step({})) expected[event.request].push_back(event.token);
  }
  for (int i = 0; !disturbed->idle(); ++i) {
    if (i % 8 == 5 && i < 60) disturbed->logits(load.prompts[0], out.data(), {});
    for (const TokenEvent& event : disturbed->step({})) got[event.request].push_back(event.token);
  }
  CHECK(got == expected);
}

// Three threads add and step, and a fourth cancels some of what the others wait for.
TEST(threads_that_add_step_and_cancel_get_all_that_is_theirs) {
  const EngineOptions options{.context = 128, .max_batch = 5, .prefill_chunk = 30};
  Engine engine(check::tiny_program(128, true), std::make_shared<ThreadPool>(2), fast_kernels(), options);
  std::mutex mutex;
  std::map<int64_t, int64_t> n_tokens;  // of each request
  std::set<int64_t> finished, to_cancel;
  const auto work = [&](unsigned seed) {
    std::mt19937 rng(seed);
    for (int i = 0; i < 20 || !engine.idle(); ++i) {
      if (i < 20) {
        const int64_t id = engine.add(std::vector<int32_t>(1 + rng() % 60, 5), {.max_tokens = 9, .seed = seed});
        const std::lock_guard lock(mutex);
        if (rng() % 5 == 0) to_cancel.insert(id);
      }
      for (const TokenEvent& event : engine.step({})) {
        const std::lock_guard lock(mutex);
        ++n_tokens[event.request];
        CHECK(event.error == nullptr);
        if (event.reason != FinishReason::kNone) CHECK(finished.insert(event.request).second);
      }
    }
  };
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 3; ++seed) threads.emplace_back(work, seed);
  for (int i = 0; i < 30; ++i) {
    std::set<int64_t> ids;
    {
      const std::lock_guard lock(mutex);
      ids = to_cancel;
    }
    for (const int64_t id : ids) engine.cancel(id);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  for (std::thread& thread : threads) thread.join();
  for (int64_t id = 0; id < 60; ++id) {
    if (!to_cancel.contains(id)) CHECK(finished.contains(id) && n_tokens[id] == 9);
    CHECK(n_tokens[id] <= 9);
  }
  CHECK_EQ(engine.n_free_blocks(), engine.n_blocks());
}

// Whatever the engine did to get there: its tokens are those that a sampler takes from the logits, number by number.
TEST(sampled_tokens_come_from_the_logits_and_their_number) {
  const Workload load = crowd();
  const auto engine = crowded_engine(fast_kernels());
  add_all(*engine, load);
  std::vector<std::vector<int32_t>> ids = load.prompts;
  while (!engine->idle()) {
    for (const TokenEvent& event : engine->step({})) ids[static_cast<size_t>(event.request)].push_back(event.token);
  }
  Sampler sampler(fast_kernels());
  for (size_t i = 0; i < ids.size(); ++i) {
    std::vector<float> logits(ids[i].size() * check::kTinyVocab);
    engine->logits(ids[i], logits.data(), {});
    const size_t n_prompt = load.prompts[i].size();
    for (size_t at = n_prompt; at < ids[i].size(); ++at) {
      const float* row = logits.data() + (at - 1) * check::kTinyVocab;
      const auto token = sampler.sample(row, check::kTinyVocab, load.params[i], static_cast<int64_t>(at - n_prompt));
      CHECK_EQ(token.value_or(-1), ids[i][at]);
    }
  }
}

TEST(programs_with_more_logits_than_embeddings_are_refused) {
  check::Trace t(8);
  const auto weight = [&](int64_t rows) { return t.matrix(Weight::create("w", rows, 4, {})); };
  const int x = t.apply(OpKind::kEmbedding, {}, {weight(10)}, 4);
  const int rows = t.value(4, {}, Space::kOutputs);
  t.instruction({OpKind::kSelect, {x}, {rows}, {}, {}});
  const auto program = std::make_shared<const Program>(t.take(t.matmul(rows, weight(11))));
  const auto pool = std::make_shared<ThreadPool>(1);
  CHECK_THROWS(ErrorKind::kFormat, Engine(program, pool, fast_kernels(), {.context = 8}));
}

}  // namespace
}  // namespace jiffy
