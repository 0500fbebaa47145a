#include "scheduler_driver.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "base/splitmix.h"
#include "check.h"

namespace jiffy::check {
namespace {

constexpr uint64_t kUndefined = 0xdeadbeef;

std::unique_ptr<Sequence> sequence(int64_t id, const std::vector<int32_t>& prompt, int64_t max_tokens) {
  auto s = std::make_unique<Sequence>();
  s->id = id;
  s->n_prompt = static_cast<int64_t>(prompt.size());
  s->tokens = prompt;
  s->params.max_tokens = max_tokens;
  return s;
}

}  // namespace

Driver::Driver(int64_t n_blocks, int64_t max_batch, int64_t prefill_chunk, PrefixHash hash)
    : pool_(n_blocks, hash),
      max_batch_(max_batch),
      prefill_chunk_(prefill_chunk),
      scheduler_(pool_, max_batch, prefill_chunk,
                 [this](int32_t from, int32_t to) {
                   std::copy_n(contents_.begin() + from * kBlockSize, kBlockSize, contents_.begin() + to * kBlockSize);
                   ++n_copied_;
                 }),
      contents_(static_cast<size_t>(n_blocks * kBlockSize), kUndefined) {}

Sequence& Driver::add(std::vector<int32_t> prompt, int64_t max_tokens, int64_t n) {
  auto s = sequence(next_id_++, prompt, max_tokens);
  live_[s->id] = s.get();
  for (; n > 1; --n) {
    auto child = sequence(next_id_++, prompt, max_tokens);
    live_[child->id] = child.get();
    s->children.emplace(child->id, std::move(child));
  }
  Sequence& added = *s;
  scheduler_.add(std::move(s));
  return added;
}

Sequence& Driver::add(int64_t n_prompt, int64_t max_tokens) {
  return add(std::vector<int32_t>(static_cast<size_t>(n_prompt), static_cast<int32_t>(100 + next_id_)), max_tokens);
}

void Driver::cancel(int64_t id) {
  CHECK_EQ(scheduler_.remove(id), live_.erase(id) == 1);
  check_blocks();
}

std::vector<Slice> Driver::step(bool done) {
  const Before before = look();
  const std::vector<Slice> slices = scheduler_.schedule();
  check_slices(slices, before);
  check_blocks();
  for (const Slice& slice : slices) check_contents(*slice.sequence);
  for (const Slice& slice : slices) write(slice, done);
  if (done) commit(slices);
  check_blocks();
  return slices;
}

bool Driver::idle() const {
  CHECK_EQ(scheduler_.idle(), live_.empty());
  return live_.empty();
}

// The children that have not yet begun.
std::set<int64_t> Driver::unborn() const {
  std::set<int64_t> ids;
  for (const auto& [id, s] : live_) {
    for (const auto& [child, unused] : s->children) ids.insert(child);
  }
  return ids;
}

Driver::Before Driver::look() const {
  Before before;
  int64_t oldest_waiting = -1;
  const std::set<int64_t> children = unborn();
  for (const auto& [id, s] : live_) {
    before.computed[id] = s->n_computed;
    if (children.contains(id)) {
      CHECK(s->block_table.empty());
    } else if (s->block_table.empty()) {
      if (oldest_waiting < 0) oldest_waiting = id;
    } else {
      if (before.oldest < 0) before.oldest = id;
      if (s->n_waiting() == 1) before.decoding.push_back(id);
    }
  }
  if (before.oldest < 0) before.oldest = oldest_waiting;
  return before;
}

void Driver::check_slices(const std::vector<Slice>& slices, const Before& before) {
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
    n_preempted_ += s->n_computed < before.computed.at(id);
    CHECK(s->n_computed == before.computed.at(id) || s->n_computed % kBlockSize == 0);
    CHECK(times.contains(id) || s->n_computed == before.computed.at(id) || s->block_table.empty());
  }
  // A decoding sequence goes on in every step, or it was preempted.
  for (const int64_t id : before.decoding) CHECK(times.contains(id) || live_.at(id)->block_table.empty());
  if (before.oldest < 0) return;
  // The oldest never waits and is never preempted, which is why all come to an end.
  CHECK_EQ(times[before.oldest], 1);
  CHECK(live_.at(before.oldest)->n_computed >= before.computed.at(before.oldest));
}

// Every block is free, or has as many users as there are tables that name it.
void Driver::check_blocks() const {
  std::vector<int64_t> users(static_cast<size_t>(pool_.n_blocks()), 0);
  for (const auto& [id, s] : live_) {
    for (const int32_t block : s->block_table) ++users[static_cast<size_t>(block)];
  }
  for (int32_t block = 0; block < pool_.n_blocks(); ++block) {
    CHECK_EQ(pool_.n_users(block), users[static_cast<size_t>(block)]);
  }
  CHECK_EQ(pool_.n_free(), std::count(users.begin(), users.end(), 0));
}

uint64_t& Driver::content(const Sequence& s, int64_t position) {
  const int32_t block = s.block_table[static_cast<size_t>(position / kBlockSize)];
  return contents_[static_cast<size_t>(block * kBlockSize + position % kBlockSize)];
}

const std::vector<uint64_t>& Driver::digests(const Sequence& s) {
  std::vector<uint64_t>& all = digests_[s.id];
  while (all.size() < s.tokens.size()) {
    const uint64_t token = static_cast<uint64_t>(s.tokens[all.size()]);
    all.push_back(splitmix64((all.empty() ? 0 : all.back()) ^ token));
  }
  return all;
}

void Driver::check_contents(const Sequence& s) {
  const std::vector<uint64_t>& expected = digests(s);
  for (int64_t i = 0; i < s.n_computed; ++i) {
    if (content(s, i) == expected[static_cast<size_t>(i)]) continue;
    return report_failure(__FILE__, __LINE__, "position " + std::to_string(i) + " of " + std::to_string(s.id));
  }
}

void Driver::write(const Slice& slice, bool done) {
  const Sequence& s = *slice.sequence;
  for (int64_t i = s.n_computed; i < s.n_computed + slice.count; ++i) {
    CHECK_EQ(pool_.n_users(s.block_table[static_cast<size_t>(i / kBlockSize)]), 1);
    content(s, i) = done ? digests(s)[static_cast<size_t>(i)] : kUndefined;
  }
}

void Driver::say(Sequence& s) {
  const uint64_t mood = static_cast<uint64_t>(s.id % 2);
  s.tokens.push_back(static_cast<int32_t>(splitmix64(digests(s).back() ^ mood) % 2));
  if (s.n_generated() < s.params.max_tokens) return;
  finished_.push_back(s.id);
  answers_[s.id] = s.tokens;
}

void Driver::commit(const std::vector<Slice>& slices) {
  const size_t before = finished_.size();
  for (const Slice& slice : slices) {
    Sequence& s = *slice.sequence;
    s.n_computed += slice.count;
    if (!slice.output) continue;
    scheduler_.register_blocks(s);
    say(s);
    for (const auto& [id, child] : s.children) say(*child);
  }
  for (size_t i = before; i < finished_.size(); ++i) {
    live_.erase(finished_[i]);
    CHECK(scheduler_.remove(finished_[i]));
  }
  scheduler_.fork();
}

}  // namespace jiffy::check
