// The block pool, the KV cache and the scheduler, driven without a model.
#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "runtime/batch.h"
#include "runtime/block_pool.h"
#include "runtime/kv_cache.h"
#include "runtime/scheduler.h"

namespace jiffy {
namespace {

TEST(block_pool_hands_out_each_block_once) {
  BlockPool pool(5);
  std::vector<int32_t> blocks;
  while (const auto block = pool.allocate()) blocks.push_back(*block);
  CHECK_EQ(pool.n_free(), 0);
  std::sort(blocks.begin(), blocks.end());
  CHECK(blocks == std::vector<int32_t>({0, 1, 2, 3, 4}));
  pool.release(3);
  CHECK_EQ(pool.n_free(), 1);
  CHECK_EQ(pool.allocate().value_or(-1), 3);
  CHECK(!pool.allocate());
  CHECK(!BlockPool(0).allocate());
}

TEST(shared_block_is_freed_by_its_last_user) {
  BlockPool pool(1);
  const int32_t block = pool.allocate().value_or(-1);
  pool.share(block);
  pool.share(block);
  CHECK_EQ(pool.n_users(block), 3);
  pool.release(block);
  pool.release(block);
  CHECK_EQ(pool.n_free(), 0);
  pool.release(block);
  CHECK_EQ(pool.n_free(), 1);
  CHECK_EQ(pool.allocate().value_or(-1), block);
  CHECK_EQ(pool.n_users(block), 1);
}

TEST(kv_cache_rounds_positions_up_to_blocks) {
  const KvLayout shape{.n_layers = 2, .n_kv_heads = 3, .head_dim = 20};
  KVCache cache(shape, 2 * kBlockSize + 1, true);
  CHECK_EQ(cache.pool().n_blocks(), 3);
  CHECK_EQ(cache.n_bytes(), 3 * 2 * 3 * kBlockSize * (20 + 32) * 4);
  uint8_t* data = cache.layout().data;
  data[cache.n_bytes() - 1] = 1;
  CHECK_EQ(int{data[0]}, 0);
  CHECK_EQ(KVCache(KvLayout{}, 100, true).n_bytes(), 0);  // a program without attention
}

TEST(kv_cache_too_large_is_an_error_that_names_its_size) {
  const int64_t most = std::numeric_limits<int64_t>::max();
  for (const int64_t positions : {int64_t{1} << 36, int64_t{1} << 40, most}) {
    CHECK_THROWS(ErrorKind::kOutOfMemory,
                 KVCache(KvLayout{.n_layers = 1000, .n_kv_heads = 1000, .head_dim = 512}, positions, true));
  }
  try {
    KVCache(KvLayout{.n_layers = 100, .n_kv_heads = 100, .head_dim = 512}, int64_t{1} << 36, true);
  } catch (const Error& error) {
    CHECK_EQ(error.where, "the KV cache of 68719476736 positions");
  }
}

std::unique_ptr<Sequence> sequence(int64_t id, int64_t n_prompt, int64_t max_tokens) {
  auto s = std::make_unique<Sequence>();
  s->id = id;
  s->n_prompt = n_prompt;
  s->tokens.assign(static_cast<size_t>(n_prompt), 0);
  s->params.max_tokens = max_tokens;
  return s;
}

int64_t blocks_for(int64_t positions) { return (positions + kBlockSize - 1) / kBlockSize; }

// Plays the engine, whose model always says 0, and checks every step.
class Driver {
 public:
  Driver(int64_t n_blocks, int64_t max_batch, int64_t prefill_chunk)
      : pool_(n_blocks),
        max_batch_(max_batch),
        prefill_chunk_(prefill_chunk),
        scheduler_(pool_, max_batch, prefill_chunk, [](int32_t, int32_t) {}) {}

  Sequence& add(int64_t n_prompt, int64_t max_tokens) {
    auto s = sequence(next_id_, n_prompt, max_tokens);
    Sequence& added = *s;
    live_[next_id_++] = s.get();
    scheduler_.add(std::move(s));
    return added;
  }

  void cancel(int64_t id) {
    CHECK_EQ(scheduler_.remove(id), live_.erase(id) == 1);
    check_blocks();
  }

  // `done` false: the step was interrupted.
  std::vector<Slice> step(bool done = true) {
    const std::map<int64_t, int64_t> computed = computed_before();
    const std::vector<int64_t> decoders = decoding();
    const std::vector<Slice> slices = scheduler_.schedule();
    check_slices(slices, computed);
    check_decoders(slices, decoders);
    check_blocks();
    if (done) commit(slices);
    return slices;
  }

  bool idle() const {
    CHECK_EQ(scheduler_.idle(), live_.empty());
    return live_.empty();
  }
  const std::map<int64_t, Sequence*>& live() const { return live_; }
  const std::vector<int64_t>& finished() const { return finished_; }
  BlockPool& pool() { return pool_; }
  Scheduler& scheduler() { return scheduler_; }
  int64_t n_preempted() const { return n_preempted_; }

 private:
  std::map<int64_t, int64_t> computed_before() const {
    std::map<int64_t, int64_t> computed;
    for (const auto& [id, s] : live_) computed[id] = s->n_computed;
    return computed;
  }

  std::vector<int64_t> decoding() const {
    std::vector<int64_t> ids;
    for (const auto& [id, s] : live_) {
      if (!s->block_table.empty() && s->n_waiting() == 1) ids.push_back(id);
    }
    return ids;
  }

  void check_slices(const std::vector<Slice>& slices, const std::map<int64_t, int64_t>& computed) {
    CHECK(std::cmp_less_equal(slices.size(), max_batch_));
    CHECK(scheduler_.n_running() <= max_batch_);
    int64_t prefill = 0;
    std::map<int64_t, int> times;
    for (const Slice& slice : slices) {
      const Sequence& s = *slice.sequence;
      CHECK(slice.count >= 1);
      CHECK(slice.count <= s.n_waiting());
      CHECK_EQ(slice.output, slice.count == s.n_waiting());
      CHECK(std::cmp_less_equal(blocks_for(s.n_computed + slice.count), s.block_table.size()));
      CHECK_EQ(++times[s.id], 1);
      if (s.n_waiting() > 1) prefill += slice.count;
    }
    CHECK(prefill <= prefill_chunk_);
    for (const auto& [id, s] : live_) {
      n_preempted_ += s->n_computed < computed.at(id);
      CHECK(s->n_computed == computed.at(id) || s->n_computed == 0);
    }
    if (live_.empty()) return;
    // The oldest never waits and is never preempted, which is why all come to an end.
    const auto& [oldest, s] = *live_.begin();
    CHECK_EQ(times[oldest], 1);
    CHECK_EQ(s->n_computed, computed.at(oldest));
  }

  void check_decoders(const std::vector<Slice>& slices, const std::vector<int64_t>& decoders) {
    for (const int64_t id : decoders) {
      const Sequence* s = live_.at(id);
      const bool taken = std::any_of(slices.begin(), slices.end(), [&](const Slice& x) { return x.sequence == s; });
      CHECK(taken || s->n_computed == 0);  // a decoding sequence goes on in every step, or it was preempted
    }
  }

  // Every block is free or in one table.
  void check_blocks() const {
    std::vector<int> used(static_cast<size_t>(pool_.n_blocks()), 0);
    int64_t n_used = 0;
    for (const auto& [id, s] : live_) {
      for (const int32_t block : s->block_table) CHECK_EQ(++used[static_cast<size_t>(block)], 1);
      n_used += static_cast<int64_t>(s->block_table.size());
    }
    CHECK_EQ(n_used + pool_.n_free(), pool_.n_blocks());
  }

  void commit(const std::vector<Slice>& slices) {
    for (const Slice& slice : slices) {
      Sequence& s = *slice.sequence;
      s.n_computed += slice.count;
      if (!slice.output) continue;
      s.tokens.push_back(0);
      if (s.n_generated() < s.params.max_tokens) continue;
      const int64_t id = s.id;
      finished_.push_back(id);
      live_.erase(id);
      CHECK(scheduler_.remove(id));
    }
  }

  BlockPool pool_;
  const int64_t max_batch_, prefill_chunk_;
  Scheduler scheduler_;
  std::map<int64_t, Sequence*> live_;  // by id, which is the order of arrival
  std::vector<int64_t> finished_;
  int64_t next_id_ = 0, n_preempted_ = 0;
};

TEST(prompts_are_cut_into_chunks_and_decodes_go_first) {
  Driver driver(100, 8, 64);
  Sequence& long_one = driver.add(150, 2);
  Sequence& short_one = driver.add(10, 5);
  auto slices = driver.step();
  CHECK_EQ(slices.size(), 1);  // the whole budget goes to the one that came first
  CHECK_EQ(slices[0].count, 64);
  driver.step();
  slices = driver.step();
  CHECK_EQ(slices.size(), 2);
  CHECK(slices[0].sequence == &long_one && slices[0].count == 150 - 128 && slices[0].output);
  CHECK(slices[1].sequence == &short_one && slices[1].count == 10 && slices[1].output);
  Sequence& late_one = driver.add(100, 1);
  slices = driver.step();
  CHECK_EQ(slices.size(), 3);
  CHECK(slices[0].count == 1 && slices[1].count == 1);  // decode rows are not part of the budget
  CHECK(slices[2].sequence == &late_one && slices[2].count == 64);
  slices = driver.step();
  CHECK_EQ(slices.size(), 2);
  CHECK(slices[0].sequence == &short_one && slices[1].sequence == &late_one && slices[1].count == 36);
}

TEST(no_more_than_max_batch_run_at_once) {
  Driver driver(100, 2, 64);
  for (int i = 0; i < 5; ++i) driver.add(3, 2 + i);
  CHECK_EQ(driver.step().size(), 2);
  CHECK_EQ(driver.scheduler().n_waiting(), 3);
  while (!driver.idle()) driver.step();
  CHECK(driver.finished() == std::vector<int64_t>({0, 1, 2, 3, 4}));
}

TEST(the_latest_gives_its_blocks_to_the_oldest) {
  Driver driver(3, 4, 512);
  Sequence& first = driver.add(kBlockSize, kBlockSize + 1);  // two blocks in the end
  Sequence& second = driver.add(kBlockSize, kBlockSize + 1);
  Sequence& third = driver.add(kBlockSize - 1, 1 + kBlockSize);
  driver.step();
  CHECK_EQ(driver.pool().n_free(), 0);
  driver.step();
  CHECK_EQ(first.block_table.size(), 2);
  CHECK_EQ(third.n_computed, 0);
  CHECK_EQ(third.n_generated(), 1);  // what it has generated it keeps
  CHECK(second.block_table.size() <= 1);
  while (!driver.idle()) driver.step();
  CHECK_EQ(driver.finished().front(), 0);
  CHECK_EQ(driver.pool().n_free(), 3);
}

TEST(newcomers_do_not_push_out_those_before_them) {
  Driver driver(4, 4, 512);
  driver.add(2 * kBlockSize, 10);
  driver.step();
  driver.add(3 * kBlockSize, 1);  // no room beside the first, which needs a third block
  driver.add(1, 1);               // would fit, but waits for its turn
  for (int i = 0; i < 5; ++i) CHECK_EQ(driver.step().size(), 1);
  CHECK_EQ(driver.n_preempted(), 0);
  while (!driver.idle()) driver.step();
  CHECK(driver.finished() == std::vector<int64_t>({0, 1, 2}));
}

TEST(reserving_for_an_outsider_takes_blocks_from_the_latest) {
  Driver driver(4, 4, 512);
  driver.add(kBlockSize, 8);
  driver.add(kBlockSize, 8);
  driver.step();
  Sequence outsider;
  CHECK(driver.scheduler().reserve(outsider, 3 * kBlockSize));
  CHECK_EQ(outsider.block_table.size(), 3);
  CHECK_EQ(driver.scheduler().n_running(), 1);
  CHECK(!driver.scheduler().reserve(outsider, 5 * kBlockSize));  // more than the pool has
  driver.scheduler().release_blocks(outsider);
  while (!driver.idle()) driver.step();
  CHECK_EQ(driver.pool().n_free(), 4);
}

TEST(removing_frees_blocks_and_forgets) {
  Driver driver(8, 2, 40);
  for (int i = 0; i < 3; ++i) driver.add(60, 4);
  driver.step();
  driver.step();
  for (const int64_t id : {1, 2, 0, 0, 77}) driver.cancel(id);  // running, waiting, running, gone, never there
  CHECK(driver.idle());
  CHECK_EQ(driver.pool().n_free(), 8);
  CHECK(driver.step().empty());
}

// One random workload on a pool that holds the longest sequence and little more.
void run_workload(unsigned seed, int64_t& n_preempted) {
  std::mt19937 rng(seed);
  const auto draw = [&](int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(rng); };
  const int64_t longest = draw(2, 300);  // positions of a sequence
  Driver driver(blocks_for(longest) + draw(0, 4), draw(1, 9), draw(1, 100));
  int64_t to_come = 30, n_cancelled = 0, steps = 0;
  int64_t most_steps = 0;
  while (to_come > 0 || !driver.idle()) {
    for (int64_t i = draw(0, 3); i > 0 && to_come > 0; --i, --to_come) {
      const int64_t n_prompt = draw(1, longest);
      const int64_t max_tokens = draw(1, longest + 1 - n_prompt);
      driver.add(n_prompt, max_tokens);
      most_steps += n_prompt + max_tokens;
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
  CHECK_EQ(static_cast<int64_t>(driver.finished().size()) + n_cancelled, 30);
  CHECK_EQ(driver.pool().n_free(), driver.pool().n_blocks());
  n_preempted += driver.n_preempted();
}

TEST(random_workloads_on_tiny_pools_all_end) {
  int64_t n_preempted = 0;
  for (unsigned seed = 0; seed < 300; ++seed) run_workload(seed, n_preempted);
  CHECK(n_preempted > 300);  // else the pools were not tiny
}

TEST(first_tokens_come_in_order_of_arrival) {
  Driver driver(40, 5, 32);
  std::mt19937 rng(1);
  for (int i = 0; i < 40; ++i) driver.add(1 + rng() % 120, 1);  // finished by its first token
  while (!driver.idle()) driver.step();
  CHECK_EQ(driver.finished().size(), 40);
  CHECK(std::is_sorted(driver.finished().begin(), driver.finished().end()));
}

TEST(batch_lays_out_slices_row_after_row) {
  Sequence a, b;
  a.tokens = {5, 6, 7, 8};
  a.n_computed = 1;
  a.block_table = {9};
  b.tokens = {11};
  b.block_table = {4};
  const Batch batch({{&a, 2, false}, {&b, 1, true}});
  const BatchView view = batch.view();
  CHECK_EQ(view.n_tokens, 3);
  CHECK(std::vector<int32_t>(view.token_ids, view.token_ids + 3) == std::vector<int32_t>({6, 7, 11}));
  CHECK(std::vector<int32_t>(view.positions, view.positions + 3) == std::vector<int32_t>({1, 2, 0}));
  CHECK_EQ(view.n_slices, 2);
  CHECK(view.slices[0].begin == 0 && view.slices[0].end == 2 && view.slices[0].position == 1);
  CHECK(view.slices[1].begin == 2 && view.slices[1].end == 3 && view.slices[1].position == 0);
  CHECK(view.slices[0].block_table[0] == 9 && view.slices[1].block_table[0] == 4);
  CHECK_EQ(view.n_outputs, 1);
  CHECK_EQ(view.output_rows[0], 2);
  CHECK_EQ(Batch({{&a, 2, false}, {&b, 1, true}}, true).n_outputs(), 3);
}

}  // namespace
}  // namespace jiffy
