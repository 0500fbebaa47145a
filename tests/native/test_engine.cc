// The engine on a tiny model: the same tokens whatever else happens, and nothing that stops it.
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "failing_allocations.h"
#include "kernels/cpu/select.h"
#include "runtime/engine.h"
#include "support.h"

namespace jiffy {
namespace {

constexpr int64_t kContext = 1024;  // of the model

struct Setup {
  std::string isa = "auto";
  int n_threads = 2;
  int64_t context = 512, max_batch = 64, prefill_chunk = 64;
};

std::unique_ptr<Engine> make_engine(const Setup& s = {}) {
  static const std::shared_ptr<const Program> model = check::tiny_program(kContext, true);
  const EngineOptions options{.context = s.context, .max_batch = s.max_batch, .prefill_chunk = s.prefill_chunk};
  return std::make_unique<Engine>(model, std::make_shared<ThreadPool>(s.n_threads), select_kernels(s.isa), options);
}

struct Request {
  std::vector<int32_t> prompt;
  SamplingParams params;
};

struct Answer {
  std::vector<int32_t> tokens;
  FinishReason reason = FinishReason::kNone;
  bool operator==(const Answer&) const = default;
};

std::vector<int32_t> prompt(size_t length, unsigned seed) {
  std::mt19937 rng(seed);
  std::vector<int32_t> tokens(length);
  for (int32_t& t : tokens) t = static_cast<int32_t>(rng() % check::kOverflowing);
  return tokens;
}

// Short and long, greedy and sampled.
std::vector<Request> requests(size_t count) {
  std::vector<Request> all;
  for (size_t i = 0; i < count; ++i) {
    const SamplingParams params{.max_tokens = static_cast<int64_t>(5 + i % 7),
                                .temperature = i % 3 == 0 ? 0.0f : 0.9f,
                                .top_k = i % 2 == 0 ? 0 : 20,
                                .top_p = i % 5 == 0 ? 0.9f : 1.0f,
                                .seed = i};
    all.push_back({prompt(1 + i * 37 % 150, static_cast<unsigned>(i)), params});
  }
  return all;
}

void record(const std::vector<TokenEvent>& events, std::map<int64_t, Answer>& answers) {
  for (const TokenEvent& event : events) {
    Answer& answer = answers[event.request];
    CHECK_EQ(answer.reason, FinishReason::kNone);  // nothing comes after the end
    CHECK_EQ(event.reason == FinishReason::kError, event.error != nullptr);
    if (!event.error) answer.tokens.push_back(event.token);
    answer.reason = event.reason;
  }
}

using Step = std::function<std::vector<TokenEvent>(Engine&)>;

std::vector<TokenEvent> plain_step(Engine& engine) { return engine.step({}); }

// All answers, in the order of the requests.
std::vector<Answer> run(Engine& engine, const std::vector<Request>& requests, const Step& step = plain_step) {
  std::map<int64_t, Answer> answers;
  for (const Request& r : requests) answers[engine.add(r.prompt, r.params)];
  while (!engine.idle()) record(step(engine), answers);
  CHECK_EQ(engine.n_free_blocks(), engine.n_blocks());
  std::vector<Answer> in_order;
  for (const auto& [id, answer] : answers) in_order.push_back(answer);
  return in_order;
}

std::vector<Answer> run_each_alone(const std::vector<Request>& requests, const Setup& setup = {}) {
  std::vector<Answer> answers;
  for (const Request& r : requests) answers.push_back(run(*make_engine(setup), {r}).front());
  return answers;
}

TEST(answers_do_not_depend_on_companions_chunks_threads_or_instruction_set) {
  const std::vector<Request> all = requests(33);
  const std::vector<Answer> alone = run_each_alone(all);
  for (const std::string& isa : supported_isas()) {
    for (const auto& [chunk, max_batch] : {std::pair{1, 64}, {7, 8}, {512, 64}}) {
      const Setup setup{.isa = isa, .n_threads = 1, .max_batch = max_batch, .prefill_chunk = chunk};
      CHECK(run(*make_engine(setup), all) == alone);
    }
  }
  for (const int n_threads : {3, 5}) CHECK(run(*make_engine({.n_threads = n_threads}), all) == alone);
}

TEST(logits_are_the_same_bits_in_any_chunks_beside_a_running_batch) {
  const std::vector<int32_t> tokens = prompt(300, 5);
  const auto logits = [&](const Setup& setup, bool busy) {
    const auto engine = make_engine(setup);
    std::vector<float> out(tokens.size() * check::kTinyVocab);
    if (busy) engine->add(prompt(100, 6), {});
    if (busy) engine->step({});
    const int64_t n_free = engine->n_free_blocks();
    engine->logits(tokens, out.data(), {});
    CHECK_EQ(engine->n_free_blocks(), n_free);
    return out;
  };
  const std::vector<float> once = logits({.n_threads = 1, .prefill_chunk = 512}, false);
  for (const float x : once) CHECK(std::isfinite(x));
  for (const int64_t chunk : {1, 7, 64}) CHECK(logits({.prefill_chunk = chunk}, chunk == 64) == once);
}

// The prompts fill all 48 blocks; then each needs a 13th.
const Setup kCrowded{.context = 512, .max_batch = 4, .prefill_chunk = 512};
std::vector<Request> crowd() {
  std::vector<Request> all;
  for (unsigned i = 0; i < 4; ++i) all.push_back({prompt(383, i), {.max_tokens = 20, .temperature = 0.8f, .seed = i}});
  return all;
}

TEST(preempted_sequences_give_the_same_tokens) {
  const auto engine = make_engine(kCrowded);
  CHECK_EQ(engine->n_blocks(), 4 * 12);
  int steps = 0;
  const auto counted = [&](Engine& e) {
    ++steps;
    return e.step({});
  };
  CHECK(run(*engine, crowd(), counted) == run_each_alone(crowd()));
  CHECK(steps > 3 + 20);  // some were computed anew
}

// Fails the first allocation of a step, then the second, and so on, until the step has all that it needs.
std::vector<TokenEvent> step_against_failures(Engine& engine, int& failures) {
  for (int64_t n = 0;; ++n) {
    try {
      check::fail_allocation_after(n);
      const std::vector<TokenEvent> events = engine.step({});
      check::fail_allocation_after(-1);
      return events;
    } catch (const std::bad_alloc&) {
      ++failures;
    }
  }
}

TEST(steps_that_run_out_of_memory_lose_nothing) {
  int failures = 0;
  const auto step = [&](Engine& engine) { return step_against_failures(engine, failures); };
  CHECK(run(*make_engine(kCrowded), crowd(), step) == run_each_alone(crowd()));
  CHECK(run(*make_engine({.n_threads = 1}), requests(9), step) == run_each_alone(requests(9)));
  CHECK(failures > 500);
}

TEST(requests_that_make_no_numbers_fail_alone) {
  std::vector<Request> all = requests(3);
  all.push_back({{1, 2, check::kOverflowing, 3}, {}});
  const std::vector<Answer> alone = run_each_alone(requests(3));
  const auto engine = make_engine();
  for (int round = 0; round < 3; ++round) {  // later rounds get blocks in which NaNs were
    std::vector<Answer> answers = run(*engine, all);
    CHECK_EQ(answers.back().reason, FinishReason::kError);
    CHECK(answers.back().tokens.empty());
    answers.pop_back();
    CHECK(answers == alone);
  }
  engine->add(all.back().prompt, {});
  const std::vector<TokenEvent> events = engine->step({});
  CHECK_EQ(events.size(), 1);
  CHECK_EQ(events[0].error->kind, ErrorKind::kFormat);
  CHECK_EQ(events[0].error->where, "logits");
}

TEST(generation_ends_at_a_stop_token_at_max_tokens_or_at_the_context) {
  const auto engine = make_engine({.context = 40});
  const std::vector<int32_t> start = prompt(10, 1);
  const Answer by_length = run(*engine, {{start, {.max_tokens = 6}}}).front();
  CHECK_EQ(by_length.tokens.size(), 6);
  CHECK_EQ(by_length.reason, FinishReason::kLength);
  SamplingParams stopping{.max_tokens = 6, .stop_ids = {-5, by_length.tokens[0], 1 << 30}};
  const Answer by_stop = run(*engine, {{start, stopping}}).front();
  CHECK(by_stop.tokens == std::vector<int32_t>{by_length.tokens[0]});
  CHECK_EQ(by_stop.reason, FinishReason::kStop);
  stopping.ignore_eos = true;
  CHECK(run(*engine, {{start, stopping}}).front() == by_length);
  const Answer by_context = run(*engine, {{start, {.max_tokens = INT32_MAX}}}).front();
  CHECK_EQ(by_context.tokens.size(), 40 - 10 + 1);  // the last token needs no place in the context
  CHECK_EQ(by_context.reason, FinishReason::kLength);
  CHECK_EQ(run(*engine, {{prompt(40, 2), {}}}).front().tokens.size(), 1);
}

TEST(bad_requests_are_refused_and_the_next_one_works) {
  const auto engine = make_engine({.context = 40});
  float unused;
  CHECK_THROWS(ErrorKind::kParameter, engine->add({}, {}));
  for (const int32_t id : {-1, 37, INT32_MAX, INT32_MIN}) {
    CHECK_THROWS(ErrorKind::kParameter, engine->add({1, id}, {}));
    CHECK_THROWS(ErrorKind::kParameter, engine->logits({1, id}, &unused, {}));
  }
  CHECK_THROWS(ErrorKind::kContextOverflow, engine->logits(prompt(41, 0), &unused, {}));
  CHECK_THROWS(ErrorKind::kParameter, engine->add({1}, {.max_tokens = 0}));
  try {
    engine->add(prompt(9000, 0), {});
    CHECK(!"a prompt longer than the context was refused");
  } catch (const Error& error) {
    CHECK_EQ(error.kind, ErrorKind::kContextOverflow);
    CHECK(error.expected.find("40") != std::string::npos);
    CHECK_EQ(error.found, "9000");
  }
  CHECK(engine->idle());
  CHECK_EQ(run(*engine, {{{1}, {.max_tokens = 3}}}).front().tokens.size(), 3);
}

TEST(bad_engine_options_are_refused) {
  for (const int64_t bad : {int64_t{-1}, int64_t{0}, kContext + 1, INT64_MAX}) {
    CHECK_THROWS(ErrorKind::kParameter, make_engine({.context = bad}));
  }
  for (const int64_t bad : {int64_t{-1}, int64_t{0}, INT64_MAX}) {
    CHECK_THROWS(ErrorKind::kParameter, make_engine({.max_batch = bad}));
    CHECK_THROWS(ErrorKind::kParameter, make_engine({.prefill_chunk = bad}));
  }
}

TEST(random_requests_and_cancels_leave_all_blocks_free) {
  const auto engine = make_engine({.context = 128, .max_batch = 6, .prefill_chunk = 50});
  std::mt19937 rng(1);
  std::vector<int64_t> ids;
  for (unsigned i = 0; i < 300; ++i) {
    const int64_t max_tokens = 1 + static_cast<int64_t>(rng() % 60);
    ids.push_back(engine->add(prompt(1 + rng() % 128, i), {.max_tokens = max_tokens, .temperature = 1, .seed = i}));
    if (rng() % 3 == 0) engine->cancel(ids[rng() % ids.size()]);  // waiting, running or long finished
    engine->step({});
  }
  engine->cancel(-1);
  while (!engine->idle()) engine->step({});
  CHECK_EQ(engine->n_free_blocks(), engine->n_blocks());
  CHECK(engine->step({}).empty());
}

// Which of two steps ended first the threads can't tell, so an answer's tokens are compared sorted.
TEST(three_threads_step_one_batch) {
  const auto engine = make_engine();
  for (const Request& r : requests(12)) engine->add(r.prompt, r.params);
  std::vector<TokenEvent> events[3];
  const auto work = [&](std::vector<TokenEvent>& mine) {
    while (!engine->idle()) {
      for (TokenEvent& event : engine->step({})) mine.push_back(event);
    }
  };
  std::thread second(work, std::ref(events[1])), third(work, std::ref(events[2]));
  work(events[0]);
  second.join();
  third.join();
  std::map<int64_t, std::multiset<int32_t>> tokens;
  for (const auto& mine : events) {
    for (const TokenEvent& event : mine) {
      if (!event.error) tokens[event.request].insert(event.token);
    }
  }
  const std::vector<Answer> alone = run_each_alone(requests(12));
  for (size_t i = 0; i < alone.size(); ++i) {
    const std::vector<int32_t>& expected = alone[i].tokens;
    CHECK(tokens[static_cast<int64_t>(i)] == std::multiset<int32_t>(expected.begin(), expected.end()));
  }
}

// Within a step, so that the engine is locked by a thread that the child doesn't have.
bool child_gets_fork_errors(Engine& engine) {
  return check::succeeds_in_child([&] {
    const std::function<void()> calls[] = {[&] { engine.add({1}, {}); }, [&] { engine.step({}); },
                                           [&] { engine.cancel(0); }, [&] { engine.idle(); }};
    for (const auto& call : calls) {
      try {
        call();
        return false;
      } catch (const Error& error) {
        if (error.kind != ErrorKind::kFork) return false;
      }
    }
    return true;
  });
}

// A prefill of 800 tokens takes the slowest kernels far more than the 50 ms after which the executor first asks.
TEST(interrupted_steps_change_nothing_and_a_forked_child_gets_errors) {
  const Setup setup{.isa = "scalar", .n_threads = 1, .context = 1024, .prefill_chunk = 1024};
  const std::vector<Request> all{{{3, 4, 5}, {.max_tokens = 8}}, {prompt(800, 3), {.max_tokens = 3}}};
  const auto engine = make_engine(setup);
  bool forked_well = false;
  int interruptions = 0;
  const auto interrupted = [&] {
    if (interruptions == 0) forked_well = child_gets_fork_errors(*engine);
    return true;
  };
  const auto step = [&](Engine& engine) {
    for (; interruptions < 2; ++interruptions) {
      try {
        engine.step(interrupted);
        CHECK(!"the step was long enough to be interrupted");
      } catch (const Interruption&) {
      }
    }
    return engine.step({});
  };
  CHECK(run(*engine, all, step) == run_each_alone(all, setup));
  CHECK_EQ(interruptions, 2);
  CHECK(forked_well);
  std::vector<float> out(800 * check::kTinyVocab);
  try {
    engine->logits(all[1].prompt, out.data(), [] { return true; });
    CHECK(!"the logits took long enough to be interrupted");
  } catch (const Interruption&) {
  }
  CHECK_EQ(engine->n_free_blocks(), engine->n_blocks());
}

}  // namespace
}  // namespace jiffy
