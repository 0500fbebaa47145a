// Several completions of one prompt, prefixes that are known, and scores, on a tiny model: always the same bits.
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "failing_allocations.h"
#include "kernels/cpu/select.h"
#include "runtime/engine.h"
#include "support.h"

namespace jiffy {
namespace {

using Answers = std::map<int64_t, std::vector<int32_t>>;  // by request

struct Setup {
  int64_t context = 256, max_batch = 8, prefill_chunk = 50;
  bool prefix_cache = true;
};

std::unique_ptr<Engine> make_engine(const Setup& s = {}) {
  static const std::shared_ptr<const Program> model = check::tiny_program(1024, true);
  const EngineOptions options{
      .context = s.context, .max_batch = s.max_batch, .prefill_chunk = s.prefill_chunk, .prefix_cache = s.prefix_cache};
  return std::make_unique<Engine>(model, std::make_shared<ThreadPool>(2), select_kernels("auto"), options);
}

std::vector<int32_t> prompt(size_t length, unsigned seed = 1) {
  std::mt19937 rng(seed);
  std::vector<int32_t> tokens(length);
  for (int32_t& t : tokens) t = static_cast<int32_t>(rng() % check::kOverflowing);
  return tokens;
}

constexpr uint64_t kSeed = 12;

SamplingParams sampled(int64_t max_tokens) { return {.max_tokens = max_tokens, .temperature = 1.0f, .seed = kSeed}; }

using Step = std::function<std::vector<TokenEvent>(Engine&)>;

void finish(Engine& engine, Answers& answers, const Step& step = [](Engine& e) { return e.step({}); }) {
  while (!engine.idle()) {
    for (const TokenEvent& event : step(engine)) answers[event.request].push_back(event.token);
  }
  CHECK_EQ(engine.n_free_blocks(), engine.n_blocks());
}

// What number `index` of several completions gives, asked for alone and without a prefix cache.
std::vector<int32_t> alone(const std::vector<int32_t>& prompt, SamplingParams params, int64_t index,
                           const Setup& setup = {}) {
  Setup off = setup;
  off.prefix_cache = false;
  const auto engine = make_engine(off);
  params.seed = completion_seed(params.seed, index);
  Answers answers;
  const int64_t id = engine->add(prompt, params);
  finish(*engine, answers);
  return answers[id];
}

TEST(completions_are_what_single_requests_with_their_seeds_give) {
  for (const size_t length : {1, 31, 32, 33, 64, 110}) {
    for (const int64_t max_batch : {1, 3, 8}) {
      const auto engine = make_engine({.max_batch = max_batch});
      Answers answers;
      const int64_t first = engine->add(prompt(length), sampled(40), 5);
      finish(*engine, answers);
      CHECK_EQ(answers.size(), 5);
      for (int64_t i = 0; i < 5; ++i) CHECK(answers[first + i] == alone(prompt(length), sampled(40), i));
      CHECK(answers[first] != answers[first + 1]);
    }
  }
}

TEST(greedy_completions_are_equal) {
  const auto engine = make_engine();
  Answers answers;
  const int64_t first = engine->add(prompt(50), {.max_tokens = 60}, 4);
  finish(*engine, answers);
  for (int64_t i = 0; i < 4; ++i) CHECK(answers[first + i] == alone(prompt(50), {.max_tokens = 60}, 0));
}

TEST(seeds_of_completions_differ) {
  CHECK_EQ(completion_seed(5, 0), 5);
  std::map<uint64_t, int> seen;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    for (int64_t i = 0; i < 50; ++i) CHECK_EQ(++seen[completion_seed(seed, i)], 1);
  }
}

TEST(a_known_prefix_gives_the_same_bits) {
  const auto engine = make_engine();
  for (int round = 0; round < 3; ++round) {
    for (const size_t length : {100, 33, 64, 160, 100}) {
      Answers answers;
      const int64_t id = engine->add(prompt(length), sampled(50));
      finish(*engine, answers);
      CHECK(answers[id] == alone(prompt(length), sampled(50), 0));
    }
  }
  // The first 100 find nothing, the first 160 what these left; of 64, the last block is left to compute.
  CHECK_EQ(engine->n_cached_tokens(), 2 * 96 + 3 * 32 + 3 * 32 + (96 + 2 * 128) + 3 * 96);
}

TEST(what_was_generated_is_known_to_a_longer_prompt) {
  const auto engine = make_engine();
  Answers answers;
  std::vector<int32_t> dialogue = prompt(20);
  const int64_t first = engine->add(dialogue, sampled(60));
  finish(*engine, answers);
  dialogue.insert(dialogue.end(), answers[first].begin(), answers[first].end());
  dialogue.push_back(3);
  const int64_t second = engine->add(dialogue, sampled(10));
  finish(*engine, answers);
  CHECK_EQ(engine->n_cached_tokens(), 64);
  CHECK(answers[second] == alone(dialogue, sampled(10), 0));
}

TEST(without_a_prefix_cache_nothing_is_known) {
  const auto engine = make_engine({.prefix_cache = false});
  Answers answers;
  for (int i = 0; i < 2; ++i) engine->add(prompt(100), {.max_tokens = 3}, 2);
  finish(*engine, answers);
  CHECK_EQ(engine->n_cached_tokens(), 0);
  for (const auto& [id, tokens] : answers) CHECK(tokens == answers[0]);
}

// Other prompts go through all the blocks, again and again.
TEST(prefixes_that_were_given_out_are_computed_again) {
  const auto engine = make_engine({.context = 256, .max_batch = 1});  // 16 blocks
  Answers answers;
  for (unsigned i = 0; i < 24; ++i) {
    const int64_t id = engine->add(prompt(150, i % 4), sampled(20));
    finish(*engine, answers);
    CHECK(answers[id] == alone(prompt(150, i % 4), sampled(20), 0));
  }
}

TEST(crowded_completions_lose_their_blocks_and_nothing_else) {
  const Setup crowded{.context = 256, .max_batch = 8, .prefill_chunk = 512};  // 72 blocks
  const auto engine = make_engine(crowded);
  Answers answers;
  for (unsigned i = 0; i < 3; ++i) engine->add(prompt(100 + i, i), sampled(156), 5);
  int64_t fewest_free = engine->n_blocks();
  finish(*engine, answers, [&](Engine& e) {
    fewest_free = std::min(fewest_free, e.n_free_blocks());
    return e.step({});
  });
  for (unsigned i = 0; i < 15; ++i) CHECK(answers[i] == alone(prompt(100 + i / 5, i / 5), sampled(156), i % 5));
  CHECK_EQ(answers.size(), 15);
  CHECK(engine->n_cached_tokens() > 0 && fewest_free < 40);
}

TEST(steps_that_run_out_of_memory_fork_once) {
  const auto engine = make_engine({.max_batch = 3});
  int failures = 0;
  const auto step = [&](Engine& e) {
    for (int64_t n = 0;; ++n) {
      try {
        check::fail_allocation_after(n);
        const std::vector<TokenEvent> events = e.step({});
        check::fail_allocation_after(-1);
        return events;
      } catch (const std::bad_alloc&) {
        ++failures;
      }
    }
  };
  Answers answers;
  for (int round = 0; round < 2; ++round) {
    const int64_t first = engine->add(prompt(70), sampled(20), 4);
    finish(*engine, answers, step);
    for (int64_t i = 0; i < 4; ++i) CHECK(answers[first + i] == alone(prompt(70), sampled(20), i));
  }
  CHECK(failures > 100);
}

// Whichever is cancelled, after whichever step: the others go on as if nothing had been.
TEST(cancelled_completions_take_no_others_with_them) {
  std::vector<std::vector<int32_t>> expected;
  for (int64_t i = 0; i < 3; ++i) expected.push_back(alone(prompt(110), sampled(6), i));
  for (int64_t cancelled = 0; cancelled < 3; ++cancelled) {
    for (int steps = 0; steps < 7; ++steps) {
      const auto engine = make_engine();
      Answers answers;
      const int64_t first = engine->add(prompt(110), sampled(6), 3);
      for (int i = 0; i < steps; ++i) {
        for (const TokenEvent& event : engine->step({})) answers[event.request].push_back(event.token);
      }
      engine->cancel(first + cancelled);
      finish(*engine, answers);
      for (int64_t i = 0; i < 3; ++i) {
        if (i != cancelled) CHECK(answers[first + i] == expected[static_cast<size_t>(i)]);
      }
      CHECK_EQ(answers[first + cancelled].size(), std::max(0, steps - 2));  // the prompt takes three steps
    }
  }
}

TEST(completions_stop_each_by_themselves) {
  const auto engine = make_engine();
  SamplingParams params = sampled(30);
  params.stop_ids = {0, 1, 2, 3, 4, 5};
  std::map<int64_t, FinishReason> reasons;
  Answers answers;
  const int64_t first = engine->add(prompt(70), params, 8);
  while (!engine->idle()) {
    for (const TokenEvent& event : engine->step({})) {
      CHECK_EQ(reasons[event.request], FinishReason::kNone);
      reasons[event.request] = event.reason;
      answers[event.request].push_back(event.token);
    }
  }
  CHECK_EQ(reasons.size(), 8);
  for (int64_t i = 0; i < 8; ++i) {
    CHECK(answers[first + i] == alone(prompt(70), params, i));
    CHECK(reasons[first + i] != FinishReason::kNone);
  }
  CHECK_EQ(engine->n_free_blocks(), engine->n_blocks());
}

TEST(all_completions_of_a_prompt_that_makes_no_numbers_fail) {
  const auto engine = make_engine();
  engine->add({1, check::kOverflowing, 2}, sampled(5), 3);
  const std::vector<TokenEvent> events = engine->step({});
  CHECK_EQ(events.size(), 3);
  for (const TokenEvent& event : events) CHECK_EQ(event.reason, FinishReason::kError);
  CHECK(engine->idle());
  CHECK_EQ(engine->n_free_blocks(), engine->n_blocks());
}

// Position 32 makes no numbers, and through attention's products with 0 none of those just before it in its chunk.
TEST(a_failed_prompt_leaves_no_bad_prefix_behind) {
  std::vector<int32_t> failing = prompt(100);
  failing[32] = check::kOverflowing;
  const std::vector<int32_t> good = prompt(60);
  for (const bool at_once : {false, true}) {
    const auto engine = make_engine();  // two chunks
    Answers answers;
    engine->add(failing, {});
    engine->step({});
    if (!at_once) engine->step({});
    CHECK_EQ(engine->idle(), !at_once);
    const int64_t id = engine->add(good, sampled(20));
    finish(*engine, answers);
    CHECK(answers[id] == alone(good, sampled(20), 0));
  }
}

TEST(a_bad_number_of_completions_is_refused) {
  const auto engine = make_engine();
  for (const int64_t n : {int64_t{-1}, int64_t{0}, int64_t{1025}, INT64_MAX}) {
    CHECK_THROWS(ErrorKind::kParameter, engine->add({1}, {}, n));
  }
  CHECK(engine->idle());
}

TEST(logits_and_scores_leave_nothing_known) {
  const auto engine = make_engine();
  std::vector<float> out(100 * check::kTinyVocab);
  engine->logits(prompt(100), out.data(), {});
  engine->score(prompt(100), out.data(), {});
  Answers answers;
  const int64_t first = engine->add(prompt(100), sampled(10));
  finish(*engine, answers);
  CHECK_EQ(engine->n_cached_tokens(), 0);
  CHECK(answers[first] == alone(prompt(100), sampled(10), 0));
  engine->score(prompt(100), out.data(), {});  // over what is known now
  const int64_t second = engine->add(prompt(100), sampled(10));
  finish(*engine, answers);
  CHECK(answers[second] == answers[first]);
}

TEST(scores_are_the_log_probabilities_of_the_logits) {
  const std::vector<int32_t> tokens = prompt(200);
  const auto engine = make_engine();
  std::vector<float> logits(tokens.size() * check::kTinyVocab), scores(tokens.size() - 1);
  engine->logits(tokens, logits.data(), {});
  engine->score(tokens, scores.data(), {});
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    const float* row = logits.data() + i * check::kTinyVocab;
    double largest = row[0], sum = 0.0;
    for (int64_t v = 0; v < check::kTinyVocab; ++v) largest = std::max<double>(largest, row[v]);
    for (int64_t v = 0; v < check::kTinyVocab; ++v) sum += std::exp(row[v] - largest);
    const double expected = row[tokens[i + 1]] - largest - std::log(sum);
    // Exponentials are right to 2 ulp and a half for their argument each, and the result is rounded to float.
    CHECK(std::fabs(scores[i] - expected) < 4 * 0x1p-23 * (1.0 + std::fabs(expected)) + 0x1p-23 * 20);
  }
  for (const int64_t chunk : {1, 7, 512}) {
    std::vector<float> again(scores.size());
    make_engine({.prefill_chunk = chunk})->score(tokens, again.data(), {});
    CHECK(again == scores);
  }
  float untouched = 3.0f;
  engine->score({5}, &untouched, {});
  CHECK_EQ(untouched, 3.0f);
  CHECK_THROWS(ErrorKind::kParameter, engine->score({}, &untouched, {}));
  CHECK_THROWS(ErrorKind::kParameter, engine->score({1, -1}, &untouched, {}));
  CHECK_THROWS(ErrorKind::kContextOverflow, engine->score(prompt(257), &untouched, {}));
}

TEST(scores_without_numbers_say_so) {
  const auto engine = make_engine({.prefill_chunk = 1});
  float scores[3];
  engine->score({1, 2, check::kOverflowing, 4}, scores, {});
  CHECK(std::isfinite(scores[0]));
  CHECK_EQ(scores[1], -INFINITY);  // it has no logit
  CHECK(std::isnan(scores[2]));
}

}  // namespace
}  // namespace jiffy
