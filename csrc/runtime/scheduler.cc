#include "runtime/scheduler.h"

#include <algorithm>
#include <iterator>

namespace jiffy {
namespace {

size_t blocks_for(int64_t positions) { return static_cast<size_t>((positions + kBlockSize - 1) / kBlockSize); }

}  // namespace

void Scheduler::add(std::unique_ptr<Sequence> sequence) {
  const int64_t id = sequence->id;
  waiting_.emplace(id, std::move(sequence));
}

// From the end of the prefix, so that its beginning is known the longest.
void Scheduler::release_blocks(Sequence& sequence) {
  std::vector<int32_t>& blocks = sequence.block_table;
  for (; !blocks.empty(); blocks.pop_back()) pool_.release(blocks.back());
  sequence.n_computed = 0;
  sequence.n_known = 0;
}

// Makes the sequence that arrived last give its blocks back; false if `sequence` can't go on even so.
bool Scheduler::preempt_for(const Sequence& sequence) {
  if (running_.empty()) return false;
  auto last = running_.extract(std::prev(running_.end()));
  const bool itself = last.mapped().get() == &sequence;
  release_blocks(*last.mapped());
  waiting_.insert(std::move(last));
  return !itself;
}

// The block that `sequence` writes to next is copied if others read it.
bool Scheduler::own_last_block(Sequence& sequence) {
  const size_t index = static_cast<size_t>(sequence.n_computed / kBlockSize);
  if (index >= sequence.block_table.size()) return true;
  int32_t& block = sequence.block_table[index];
  while (pool_.n_users(block) > 1) {
    if (const std::optional<int32_t> own = pool_.allocate()) {
      copy_(block, *own);
      pool_.release(block);
      block = *own;
    } else if (!preempt_for(sequence)) {
      return false;
    }
  }
  return true;
}

// All the memory that the table will need until it has `n_blocks`, and its copies at a fork: nothing is lost halfway.
void Scheduler::make_room(Sequence& sequence, size_t n_blocks) {
  sequence.block_table.reserve(n_blocks);
  for (const auto& [id, child] : sequence.children) child->block_table.reserve(n_blocks);
}

bool Scheduler::reserve(Sequence& sequence, int64_t positions) {
  const size_t wanted = blocks_for(positions);
  make_room(sequence, wanted);
  if (!own_last_block(sequence)) return false;
  while (sequence.block_table.size() < wanted) {
    if (const std::optional<int32_t> block = pool_.allocate()) {
      sequence.block_table.push_back(*block);
    } else if (!preempt_for(sequence)) {
      return false;
    }
  }
  return true;
}

// One token of each decoding sequence, or chunks of those in prefill.
void Scheduler::plan_running(std::vector<Slice>& slices, bool decoding, int64_t& budget) {
  int64_t id = -1;
  for (auto at = running_.begin(); at != running_.end();
       at = running_.upper_bound(id)) {  // reserve() may take some out
    id = at->first;
    Sequence& s = *at->second;
    if ((s.n_waiting() == 1) != decoding) continue;
    const int64_t count = decoding ? 1 : std::min(budget, s.n_waiting());
    if (count == 0 || !reserve(s, s.n_computed + count)) continue;
    if (!decoding) budget -= count;
    slices.push_back({&s, count, count == s.n_waiting()});
  }
}

// One token is always left to compute: its logits are wanted.
void Scheduler::take_prefix(Sequence& sequence) {
  std::vector<int32_t>& blocks = sequence.block_table;
  const size_t most = static_cast<size_t>((sequence.n_tokens() - 1) / kBlockSize);
  while (blocks.size() < most) {
    const int32_t* tokens = sequence.tokens.data() + blocks.size() * kBlockSize;
    const std::optional<int32_t> known = pool_.find(blocks.empty() ? kNoBlock : blocks.back(), tokens);
    if (!known) break;
    pool_.share(*known);
    blocks.push_back(*known);
  }
  sequence.n_known = blocks.size();
  sequence.n_computed = static_cast<int64_t>(blocks.size()) * kBlockSize;
}

void Scheduler::admit(std::vector<Slice>& slices, int64_t budget) {
  while (!waiting_.empty() && budget > 0 && n_running() < max_batch_) {
    Sequence& s = *waiting_.begin()->second;
    make_room(s, blocks_for(s.n_tokens()));
    take_prefix(s);
    const int64_t count = std::min(budget, s.n_waiting());
    // A newcomer takes free blocks only: it must not push out those that came before.
    const int64_t missing = static_cast<int64_t>(blocks_for(s.n_computed + count) - s.block_table.size());
    if (missing > pool_.n_free()) return release_blocks(s);
    n_cached_tokens_ += std::min(s.n_computed, s.n_prompt);
    reserve(s, s.n_computed + count);
    running_.insert(waiting_.extract(waiting_.begin()));
    budget -= count;
    slices.push_back({&s, count, count == s.n_waiting()});
  }
}

// A sequence can lose its blocks to an older one after its own slice was planned.
void Scheduler::drop_preempted(std::vector<Slice>& slices) const {
  std::erase_if(slices, [](const Slice& slice) { return slice.sequence->block_table.empty(); });
}

std::vector<Slice> Scheduler::schedule() {
  std::vector<Slice> slices;
  slices.reserve(static_cast<size_t>(std::min(max_batch_, n_running() + n_waiting())));
  int64_t budget = prefill_chunk_;
  plan_running(slices, true, budget);
  plan_running(slices, false, budget);
  drop_preempted(slices);
  admit(slices, budget);
  return slices;
}

void Scheduler::register_blocks(Sequence& sequence) {
  std::vector<int32_t>& blocks = sequence.block_table;
  size_t& n = sequence.n_known;
  for (; n < static_cast<size_t>(sequence.n_computed / kBlockSize); ++n) {
    const int32_t parent = n == 0 ? kNoBlock : blocks[n - 1];
    blocks[n] = pool_.register_full(blocks[n], parent, sequence.tokens.data() + n * kBlockSize);
  }
}

void Scheduler::fork() {
  for (const auto& [id, s] : running_) {
    while (s->n_generated() > 0 && !s->children.empty()) {
      auto child = s->children.extract(s->children.begin());
      if (n_running() == max_batch_) {
        waiting_.insert(std::move(child));
        continue;
      }
      child.mapped()->block_table = s->block_table;  // into memory that make_room() has reserved
      child.mapped()->n_computed = s->n_computed;
      child.mapped()->n_known = s->n_known;
      for (const int32_t block : s->block_table) pool_.share(block);
      running_.insert(std::move(child));
    }
  }
}

bool Scheduler::remove(int64_t id) {
  for (Sequences* sequences : {&running_, &waiting_}) {
    const auto behind = sequences->upper_bound(id);
    if (behind == sequences->begin()) continue;
    const auto at = std::prev(behind);  // the sequence, or the one whose child it is
    if (at->first == id) {
      remove_from(*sequences, at);
      return true;
    }
    if (at->second->children.erase(id) > 0) return true;
  }
  return false;
}

void Scheduler::remove_from(Sequences& sequences, Sequences::iterator at) {
  Sequence& s = *at->second;
  if (!s.children.empty()) {
    auto heir = s.children.extract(s.children.begin());
    heir.mapped()->block_table.swap(s.block_table);
    heir.mapped()->n_computed = s.n_computed;
    heir.mapped()->n_known = s.n_known;
    heir.mapped()->children = std::move(s.children);
    sequences.insert(std::move(heir));
  }
  release_blocks(s);
  sequences.erase(at);
}

}  // namespace jiffy
