// The KV cache and the scheduler, driven without a model.
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
#include "scheduler_driver.h"

namespace jiffy {
namespace {

using check::Driver;

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
