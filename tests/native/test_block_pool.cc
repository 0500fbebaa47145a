// The block pool and the prefixes that it knows.
#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "check.h"
#include "runtime/block_pool.h"

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

using Tokens = std::array<int32_t, kBlockSize>;

Tokens tokens(int32_t last) {
  Tokens t{};
  t.back() = last;
  return t;
}

// A block with `tokens` behind `parent`, as a sequence gets and fills it.
int32_t filled(BlockPool& pool, int32_t parent, const Tokens& tokens) {
  return pool.register_full(pool.allocate().value_or(-1), parent, tokens.data());
}

TEST(registered_blocks_are_found_by_tokens_and_parent) {
  BlockPool pool(4);
  const int32_t a = filled(pool, kNoBlock, tokens(1)), b = filled(pool, a, tokens(2));
  CHECK(a != b);
  CHECK_EQ(pool.find(kNoBlock, tokens(1).data()).value_or(-1), a);
  CHECK_EQ(pool.find(a, tokens(2).data()).value_or(-1), b);
  CHECK(!pool.find(kNoBlock, tokens(2).data()));
  CHECK(!pool.find(b, tokens(2).data()));
  CHECK(!pool.find(a, tokens(1).data()));
  const int32_t unregistered = pool.allocate().value_or(-1);
  CHECK(!pool.find(unregistered, tokens(1).data()));  // not even what begins a sequence
}

TEST(blocks_without_users_are_free_but_known_until_they_are_given_out) {
  BlockPool pool(3);
  const int32_t a = filled(pool, kNoBlock, tokens(1)), b = filled(pool, kNoBlock, tokens(2));
  pool.release(a);
  pool.release(b);
  CHECK_EQ(pool.n_free(), 3);
  pool.share(a);  // a user again: b is now the one released least recently
  CHECK_EQ(pool.n_users(a), 1);
  CHECK_EQ(pool.n_free(), 2);
  pool.release(a);
  const int32_t third = pool.allocate().value_or(-1);
  CHECK(third != a && third != b);  // what is known goes last
  CHECK_EQ(pool.find(kNoBlock, tokens(1).data()).value_or(-1), a);
  CHECK_EQ(pool.allocate().value_or(-1), b);
  CHECK(!pool.find(kNoBlock, tokens(2).data()));
  CHECK_EQ(pool.find(kNoBlock, tokens(1).data()).value_or(-1), a);
  CHECK_EQ(pool.allocate().value_or(-1), a);
  CHECK(!pool.find(kNoBlock, tokens(1).data()));
  CHECK(!pool.allocate());
}

TEST(children_of_a_block_that_was_given_out_are_not_found_behind_its_successor) {
  BlockPool pool(2);
  const int32_t parent = filled(pool, kNoBlock, tokens(1)), child = filled(pool, parent, tokens(2));
  pool.release(parent);  // in the wrong order: the parent will be given out first
  pool.release(child);
  CHECK_EQ(filled(pool, kNoBlock, tokens(3)), parent);
  CHECK(!pool.find(parent, tokens(2).data()));
  CHECK(!pool.find(kNoBlock, tokens(1).data()));
}

TEST(the_second_with_the_same_tokens_gets_the_first_block) {
  BlockPool pool(3);
  const int32_t first = filled(pool, kNoBlock, tokens(1));
  const int32_t own = pool.allocate().value_or(-1);
  CHECK(own != first);
  CHECK_EQ(pool.register_full(own, kNoBlock, tokens(1).data()), first);
  CHECK_EQ(pool.n_users(first), 2);
  CHECK_EQ(pool.n_users(own), 0);
  CHECK_EQ(pool.n_free(), 2);
  pool.release(first);
  pool.release(first);
  CHECK_EQ(filled(pool, kNoBlock, tokens(1)), first);  // also if it has no user
  CHECK_EQ(pool.n_free(), 2);
}

TEST(pools_without_a_hash_know_nothing) {
  BlockPool pool(2, nullptr);
  const int32_t a = filled(pool, kNoBlock, tokens(1)), b = filled(pool, kNoBlock, tokens(1));
  CHECK(a != b);
  CHECK(!pool.find(kNoBlock, tokens(1).data()));
  pool.release(a);
  CHECK_EQ(pool.n_free(), 1);
  CHECK_EQ(pool.allocate().value_or(-1), a);
}

// All that the pool knows, by whole prefixes; compared after each of many random calls.
void play(unsigned seed, PrefixHash hash) {
  std::mt19937 rng(seed);
  BlockPool pool(6, hash);
  std::map<int32_t, std::vector<int32_t>> prefixes;  // of the registered blocks
  std::vector<std::vector<int32_t>> tables;          // of chains in use
  std::vector<std::vector<int32_t>> texts;
  for (int i = 0; i < 400; ++i) {
    if (rng() % 3 == 0 && !tables.empty()) {
      const size_t at = rng() % tables.size();
      if (rng() % 2 == 0) std::reverse(tables[at].begin(), tables[at].end());  // the order is the caller's
      for (const int32_t block : tables[at]) pool.release(block);
      tables.erase(tables.begin() + static_cast<std::ptrdiff_t>(at));
      continue;
    }
    std::vector<int32_t> table, text;
    for (size_t n = 1 + rng() % 3; n > 0; --n) {
      const Tokens wanted = tokens(static_cast<int32_t>(rng() % 3));
      const int32_t parent = table.empty() ? kNoBlock : table.back();
      text.push_back(wanted.back());
      if (const auto known = pool.find(parent, wanted.data())) {
        CHECK(prefixes.at(*known) == text);
        pool.share(*known);
        table.push_back(*known);
      } else if (const auto block = pool.allocate()) {
        prefixes.erase(*block);
        table.push_back(pool.register_full(*block, parent, wanted.data()));
        CHECK_EQ(table.back(), *block);
        prefixes[*block] = text;
      } else {
        break;
      }
    }
    if (!table.empty()) tables.push_back(std::move(table));
  }
  for (const auto& table : tables) {
    for (const int32_t block : table) pool.release(block);
  }
  CHECK_EQ(pool.n_free(), 6);
}

TEST(colliding_hashes_find_no_wrong_block) {
  for (unsigned seed = 0; seed < 50; ++seed) {
    play(seed, prefix_hash);
    play(seed, [](uint64_t, const int32_t*) -> uint64_t { return 42; });
    play(seed, [](uint64_t, const int32_t* t) -> uint64_t { return static_cast<uint64_t>(t[kBlockSize - 1]); });
  }
}

}  // namespace
}  // namespace jiffy
