// Beams over a scheduler without a model: they share blocks, lose them and come back, and nothing leaks.
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "base/splitmix.h"
#include "check.h"
#include "runtime/beam_search.h"
#include "runtime/block_pool.h"
#include "runtime/scheduler.h"

namespace jiffy {
namespace {

constexpr uint64_t kUndefined = 0xdeadbeef;

// Instead of keys and values, the position of a block holds a digest of all tokens up to there.
class Model {
 public:
  Model(int64_t n_blocks, int64_t max_batch)
      : pool_(n_blocks),
        scheduler_(pool_, max_batch, 64,
                   [this](int32_t from, int32_t to) {
                     std::copy_n(contents_.begin() + from * kBlockSize, kBlockSize,
                                 contents_.begin() + to * kBlockSize);
                   }),
        contents_(static_cast<size_t>(n_blocks * kBlockSize), kUndefined) {}

  int64_t add(const std::vector<int32_t>& prompt, int64_t width, int64_t max_tokens) {
    const auto make = [&] {
      auto s = std::make_unique<Sequence>();
      s->id = next_id_++;
      s->tokens = prompt;
      s->n_prompt = s->n_tokens();
      s->params.max_tokens = max_tokens;
      s->params.beams.width = width;
      return s;
    };
    auto first = make();
    Sequences others;
    for (int64_t i = 1; i < width; ++i) {
      auto beam = make();
      others.emplace(beam->id, std::move(beam));
    }
    first->search = std::make_shared<BeamSearch>(*first, std::move(others), max_tokens);
    const int64_t id = first->id;
    live_[id] = first->search;
    scheduler_.add(std::move(first));
    return id;
  }

  void remove(int64_t id) {
    CHECK(scheduler_.remove(id));
    live_.erase(id);
  }

  // False when nothing is left to do.
  bool step() {
    const std::vector<Slice> slices = scheduler_.schedule();
    CHECK_EQ(slices.empty(), scheduler_.idle());
    for (const Slice& slice : slices) {
      Sequence& s = *slice.sequence;
      CHECK(!s.waits_for_others());
      for (int64_t i = 0; i < s.n_computed; ++i) CHECK_EQ(content(s, i), digest(s, i));
      for (int64_t i = s.n_computed; i < s.n_computed + slice.count; ++i) {
        CHECK_EQ(pool_.n_users(s.block_table[static_cast<size_t>(i / kBlockSize)]), 1);
        content(s, i) = digest(s, i);
      }
      s.n_computed += slice.count;
      if (!slice.output) continue;
      scheduler_.register_blocks(s);
      // Beams stay apart: each goes on with one of its own candidates, which are better than all others'.
      const float score = s.score - static_cast<float>(digest(s, s.n_tokens() - 1) % 7);
      for (int32_t i = 0; i < 2 * s.params.beams.width; ++i) {
        s.candidates.push_back({i, s.n_generated() == 0 || i == 0 ? score : score - 1e6f});
      }
    }
    turn();
    check_blocks();
    return !slices.empty();
  }

  const std::map<int64_t, std::vector<Hypothesis>>& answers() const { return answers_; }
  BlockPool& pool() { return pool_; }

 private:
  void turn() {
    for (auto at = live_.begin(); at != live_.end();) {
      BeamSearch& search = *at->second;
      std::vector<const std::vector<Candidate>*> candidates;
      for (size_t i = 0; i < search.n_live; ++i) {
        if (search.beams()[i]->waits_for_others()) candidates.push_back(&search.beams()[i]->candidates);
      }
      if (candidates.size() < search.n_live) {
        ++at;
        continue;
      }
      BeamStep step = search.next(candidates);
      if (step.done) {
        answers_[at->first] = step.hypotheses;
        CHECK(scheduler_.remove(at->first));
        at = live_.erase(at);
      } else {
        scheduler_.go_on(search, step);
        ++at;
      }
    }
  }

  // Every block is free, or has as many users as there are tables that name it.
  void check_blocks() {
    std::vector<int64_t> users(static_cast<size_t>(pool_.n_blocks()), 0);
    for (const auto& [id, search] : live_) {
      for (const Sequence* s : search->beams()) {
        for (const int32_t block : s->block_table) ++users[static_cast<size_t>(block)];
      }
    }
    for (int32_t block = 0; block < pool_.n_blocks(); ++block) {
      CHECK_EQ(pool_.n_users(block), users[static_cast<size_t>(block)]);
    }
  }

  uint64_t& content(const Sequence& s, int64_t position) {
    const int32_t block = s.block_table[static_cast<size_t>(position / kBlockSize)];
    return contents_[static_cast<size_t>(block * kBlockSize + position % kBlockSize)];
  }
  static uint64_t digest(const Sequence& s, int64_t position) {
    uint64_t sum = 0;
    for (int64_t i = 0; i <= position; ++i)
      sum = splitmix64(sum ^ static_cast<uint64_t>(s.tokens[static_cast<size_t>(i)]));
    return sum;
  }

  BlockPool pool_;
  Scheduler scheduler_;
  std::vector<uint64_t> contents_;
  std::map<int64_t, std::shared_ptr<BeamSearch>> live_;
  std::map<int64_t, std::vector<Hypothesis>> answers_;
  int64_t next_id_ = 0;
};

std::vector<int32_t> prompt(size_t length, int32_t start) {
  std::vector<int32_t> tokens(length);
  for (size_t i = 0; i < length; ++i) tokens[i] = start + static_cast<int32_t>(i);
  return tokens;
}

void check_same(const std::vector<Hypothesis>& got, const std::vector<Hypothesis>& expected) {
  CHECK_EQ(got.size(), expected.size());
  for (size_t i = 0; i < std::min(got.size(), expected.size()); ++i) {
    CHECK(got[i].tokens == expected[i].tokens);
    CHECK_EQ(got[i].score, expected[i].score);
  }
}

std::vector<Hypothesis> alone(const std::vector<int32_t>& tokens, int64_t width, int64_t max_tokens) {
  Model model(200, 16);
  const int64_t id = model.add(tokens, width, max_tokens);
  while (model.step()) {
  }
  return model.answers().at(id);
}

}  // namespace

// A pool that holds one beam at its full length, and no more: beams take turns.
TEST(beams_need_no_more_than_one_context) {
  const std::vector<int32_t> tokens = prompt(40, 1);
  Model model(4, 4);  // 128 positions
  const int64_t id = model.add(tokens, 4, 88);
  int64_t steps = 0;
  while (model.step()) ++steps;
  CHECK(steps > 88);
  check_same(model.answers().at(id), alone(tokens, 4, 88));
  CHECK_EQ(model.answers().at(id).size(), 4);
  CHECK_EQ(model.pool().n_free(), 4);
}

TEST(searches_that_share_a_small_pool_give_what_they_give_alone) {
  for (const int64_t n_blocks : {4, 5, 7, 9, 12, 20}) {
    Model model(n_blocks, 8);
    std::map<int64_t, std::vector<Hypothesis>> expected;
    for (int32_t i = 0; i < 5; ++i) {
      const std::vector<int32_t> tokens = prompt(static_cast<size_t>(1 + 17 * i), 100 * (i / 2));
      const int64_t width = 2 + i % 3;
      expected[model.add(tokens, width, 30)] = alone(tokens, width, 30);
    }
    while (model.step()) {
    }
    for (const auto& [id, hypotheses] : expected) check_same(model.answers().at(id), hypotheses);
    CHECK_EQ(model.pool().n_free(), n_blocks);
  }
}

TEST(a_search_is_cancelled_at_any_step) {
  for (int64_t at = 0; at < 12; ++at) {
    Model model(6, 8);
    const int64_t first = model.add(prompt(70, 1), 3, 20), second = model.add(prompt(33, 500), 2, 20);
    for (int64_t i = 0; i < at; ++i) model.step();
    model.remove(first);
    while (model.step()) {
    }
    check_same(model.answers().at(second), alone(prompt(33, 500), 2, 20));
    CHECK_EQ(model.pool().n_free(), 6);
  }
}

TEST(a_beams_own_number_is_nobodys_to_cancel) {
  BlockPool pool(8);
  Scheduler scheduler(pool, 4, 64, [](int32_t, int32_t) {});
  auto first = std::make_unique<Sequence>();
  auto other = std::make_unique<Sequence>();
  other->id = 1;
  for (Sequence* s : {first.get(), other.get()}) {
    s->tokens = {1, 2, 3};
    s->n_prompt = 3;
    s->params.beams.width = 2;
  }
  Sequences others;
  others.emplace(1, std::move(other));
  first->search = std::make_shared<BeamSearch>(*first, std::move(others), 10);
  scheduler.add(std::move(first));
  CHECK(!scheduler.remove(1));
  CHECK(scheduler.remove(0));
  CHECK(scheduler.idle());
}

}  // namespace jiffy
