// The scheduler with prefixes that are known and prompts that fork, driven without a model.
#include <algorithm>
#include <random>
#include <vector>

#include "check.h"
#include "scheduler_driver.h"

namespace jiffy {
namespace {

using check::blocks_for;
using check::Driver;

// The first `length` tokens of one of few texts, so that prompts begin alike.
std::vector<int32_t> text(int64_t length, unsigned family) {
  std::mt19937 rng(family);
  std::vector<int32_t> tokens(static_cast<size_t>(length));
  for (int32_t& token : tokens) token = static_cast<int32_t>(rng() % 2);
  return tokens;
}

void finish(Driver& driver) {
  while (!driver.idle()) driver.step();
  CHECK_EQ(driver.pool().n_free(), driver.pool().n_blocks());
}

TEST(a_known_prefix_is_not_computed_again) {
  Driver driver(20, 4, 512);
  driver.add(text(100, 0), 1);
  CHECK_EQ(driver.step().front().count, 100);
  driver.add(text(100, 0), 1);
  CHECK_EQ(driver.step().front().count, 100 - 96);
  driver.add(text(64, 0), 1);  // one token is computed, so one block is not taken over
  CHECK_EQ(driver.step().front().count, 32);
  driver.add(text(65, 0), 1);
  CHECK_EQ(driver.step().front().count, 1);
  driver.add(text(100, 1), 1);
  CHECK_EQ(driver.step().front().count, 100);
  CHECK_EQ(driver.scheduler().n_cached_tokens(), 96 + 32 + 64);
  CHECK_EQ(driver.pool().n_free(), 20);
}

TEST(two_that_compute_the_same_prefix_share_it_afterwards) {
  Driver driver(8, 4, 512);
  Sequence& a = driver.add(text(70, 0), 5);
  Sequence& b = driver.add(text(70, 0), 5);
  driver.step();
  CHECK_EQ(driver.scheduler().n_cached_tokens(), 0);
  CHECK(a.block_table[0] == b.block_table[0] && a.block_table[1] == b.block_table[1]);
  CHECK(a.block_table[2] != b.block_table[2]);
  CHECK_EQ(driver.pool().n_free(), 4);
  finish(driver);
}

TEST(an_interrupted_step_makes_nothing_known) {
  Driver driver(8, 4, 512);
  driver.add(text(70, 0), 1);
  driver.step(false);
  driver.cancel(0);
  driver.add(text(70, 0), 1);
  CHECK_EQ(driver.step().front().count, 70);
}

TEST(sharing_what_is_known_leaves_room_that_would_not_be_there_without) {
  Driver driver(4, 4, 512);
  driver.add(text(96, 0), 20);
  driver.step();
  driver.add(text(96, 0), 1);         // needs three blocks; two are known, one is free
  CHECK_EQ(driver.step().size(), 1);  // the first takes it for its own 97th token
  finish(driver);
  CHECK(driver.finished() == std::vector<int64_t>({0, 1}));
}

TEST(completions_share_their_prompt_and_copy_what_they_write) {
  Driver driver(20, 8, 512);
  Sequence& first = driver.add(text(70, 0), 6, 4);
  CHECK_EQ(driver.step().size(), 1);
  CHECK_EQ(driver.scheduler().n_running(), 4);
  CHECK_EQ(driver.pool().n_free(), 20 - 3);
  CHECK_EQ(driver.pool().n_users(first.block_table[2]), 4);
  CHECK_EQ(driver.step().size(), 4);
  CHECK_EQ(driver.n_copied(), 3);  // the last to write has the block for itself
  CHECK_EQ(driver.pool().n_free(), 20 - 6);
  finish(driver);
  CHECK_EQ(driver.finished().size(), 4);
}

TEST(prompts_that_end_with_a_block_fork_without_copies) {
  Driver driver(20, 8, 512);
  driver.add(text(64, 0), 6, 4);
  finish(driver);
  CHECK_EQ(driver.n_copied(), 0);
}

TEST(completions_beyond_the_batch_wait_and_find_their_prompt_known) {
  Driver driver(20, 2, 512);
  driver.add(text(70, 0), 3, 5);
  driver.step();
  driver.add(text(10, 1), 3);
  CHECK_EQ(driver.scheduler().n_running(), 2);
  CHECK_EQ(driver.scheduler().n_waiting(), 4);
  finish(driver);
  CHECK(driver.finished() == std::vector<int64_t>({0, 1, 2, 3, 4, 5}));
  CHECK_EQ(driver.scheduler().n_cached_tokens(), 3 * 64);
}

TEST(completions_that_end_with_their_first_token_never_fork) {
  Driver driver(3, 2, 512);
  driver.add(text(70, 0), 1, 5);
  driver.step();
  CHECK(driver.idle());
  CHECK_EQ(driver.finished().size(), 5);
  CHECK_EQ(driver.pool().n_free(), 3);
}

// Any one of three completions is cancelled, after any number of steps: the others give what they would have given.
TEST(a_cancelled_completion_takes_no_other_with_it) {
  Driver calm(20, 8, 30);
  calm.add(text(70, 0), 6, 3);
  finish(calm);
  for (int64_t id = 0; id < 3; ++id) {
    for (int steps = 0; steps < 9; ++steps) {
      Driver driver(20, 8, 30);
      driver.add(text(70, 0), 6, 3);
      for (int i = 0; i < steps; ++i) driver.step();
      const bool done = driver.idle();
      driver.cancel(id);
      finish(driver);
      CHECK_EQ(driver.finished().size(), done ? 3 : 2);
      for (const int64_t other : driver.finished()) CHECK(driver.answers().at(other) == calm.answers().at(other));
    }
  }
}

TEST(all_completions_can_be_cancelled_before_the_prompt_is_computed) {
  Driver driver(20, 8, 30);
  driver.add(text(70, 0), 6, 3);
  driver.step();
  for (const int64_t id : {0, 2, 1}) driver.cancel(id);
  CHECK(driver.idle());
  CHECK_EQ(driver.pool().n_free(), 20);
}

// A prompt's own blocks, and one more each to write to: the younger ones wait, the first goes on.
TEST(completions_without_room_to_write_are_preempted) {
  Driver driver(4, 8, 512);
  driver.add(text(70, 0), 58, 5);  // four blocks in the end
  finish(driver);
  CHECK_EQ(driver.finished().front(), 0);
  CHECK_EQ(driver.finished().size(), 5);
  CHECK(driver.n_preempted() > 0);
}

struct Totals {
  int64_t n_preempted = 0, n_copied = 0, n_cached = 0;
};

// One random workload on a pool that holds the longest sequence and little more.
void run_workload(unsigned seed, PrefixHash hash, Totals& totals) {
  std::mt19937 rng(seed);
  const auto draw = [&](int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(rng); };
  const int64_t longest = draw(2, 300);  // positions of a sequence
  Driver driver(blocks_for(longest) + draw(0, 4), draw(1, 9), draw(1, 100), hash);
  int64_t to_come = 30, n_cancelled = 0, n_all = 0, steps = 0, most_steps = 0;
  while (to_come > 0 || !driver.idle()) {
    for (int64_t i = draw(0, 3); i > 0 && to_come > 0; --i, --to_come) {
      const int64_t n_prompt = draw(1, longest), max_tokens = draw(1, longest + 1 - n_prompt);
      const int64_t n = std::max<int64_t>(1, draw(-3, 4));
      driver.add(text(n_prompt, static_cast<unsigned>(draw(0, 2))), max_tokens, n);
      most_steps += n * (n_prompt + max_tokens);
      n_all += n;
    }
    if (draw(0, 40) == 0 && !driver.idle()) {
      driver.cancel(std::next(driver.live().begin(), draw(0, static_cast<int64_t>(driver.live().size()) - 1))->first);
      ++n_cancelled;
    }
    const bool interrupted = draw(0, 20) == 0;
    driver.step(!interrupted);
    steps += !interrupted;
  }
  CHECK(steps <= most_steps + 30);  // the oldest advances in each
  CHECK_EQ(static_cast<int64_t>(driver.finished().size()) + n_cancelled, n_all);
  CHECK_EQ(driver.pool().n_free(), driver.pool().n_blocks());
  totals.n_preempted += driver.n_preempted();
  totals.n_copied += driver.n_copied();
  totals.n_cached += driver.scheduler().n_cached_tokens();
}

uint64_t one_hash_for_all(uint64_t, const int32_t*) { return 7; }

TEST(random_workloads_on_tiny_pools_all_end) {
  Totals known, colliding, unknown;
  for (unsigned seed = 0; seed < 200; ++seed) run_workload(seed, prefix_hash, known);
  for (unsigned seed = 0; seed < 50; ++seed) run_workload(seed, one_hash_for_all, colliding);
  for (unsigned seed = 0; seed < 50; ++seed) run_workload(seed, nullptr, unknown);
  CHECK(known.n_preempted > 200);  // else the pools were not tiny
  CHECK(known.n_copied > 200 && known.n_cached > 10000 && colliding.n_cached > 2500);
  CHECK_EQ(unknown.n_cached, 0);
}

}  // namespace
}  // namespace jiffy
