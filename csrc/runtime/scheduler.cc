#include "runtime/scheduler.h"

#include <algorithm>
#include <iterator>
#include <utility>

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

// Makes the sequence that arrived last give its blocks back.
void Scheduler::preempt_last() {
  auto last = running_.extract(std::prev(running_.end()));
  release_blocks(*last.mapped());
  waiting_.insert(std::move(last));
}

// The same for `sequence`; false if it can't go on even so.
bool Scheduler::preempt_for(const Sequence& sequence) {
  if (running_.empty()) return false;
  const bool itself = std::prev(running_.end())->second.get() == &sequence;
  preempt_last();
  return !itself;
}

// Of the batch, how many are taken: a search has as many as beams, whichever of them run.
int64_t Scheduler::n_places() const {
  int64_t taken = 0;
  const BeamSearch* last = nullptr;  // beams of a search have numbers in a row
  for (const auto& [id, s] : running_) {
    if (s->search == nullptr) ++taken;
    if (s->search != nullptr && s->search.get() != last) taken += s->params.beams.width;
    last = s->search.get();
  }
  return taken;
}

// How many a sequence would take that doesn't run.
int64_t Scheduler::places(const Sequence& sequence) const {
  if (sequence.search == nullptr) return 1;
  const std::vector<Sequence*>& beams = sequence.search->beams();
  const bool runs =
      std::any_of(beams.begin(), beams.end(), [&](const Sequence* s) { return running_.contains(s->id); });
  return runs ? 0 : sequence.params.beams.width;
}

// The first that has something to compute.
Sequence* Scheduler::next_waiting() const {
  const auto ready = [](const auto& entry) { return !entry.second->waits_for_others(); };
  const auto at = std::find_if(waiting_.begin(), waiting_.end(), ready);
  return at == waiting_.end() ? nullptr : at->second.get();
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
    if (s.waits_for_others() || (s.n_waiting() == 1) != decoding) continue;
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
  int64_t taken = n_places();
  while (Sequence* const next = budget > 0 ? next_waiting() : nullptr) {
    Sequence& s = *next;
    if (taken + places(s) > max_batch_) return;
    taken += places(s);
    make_room(s, blocks_for(s.n_tokens()));
    take_prefix(s);
    const int64_t count = std::min(budget, s.n_waiting());
    // A newcomer takes free blocks only: it must not push out those that came before. Those of its source text stay
    // with it until it ends; who came later has none yet.
    const int64_t missing = static_cast<int64_t>(blocks_for(s.n_computed + count) - s.block_table.size());
    if (missing > pool_.n_free() || (s.source != nullptr && !s.source->reserve())) return release_blocks(s);
    n_cached_tokens_ += std::min(s.n_computed, s.n_prompt);
    reserve(s, s.n_computed + count);
    running_.insert(waiting_.extract(s.id));
    budget -= count;
    if (s.source != nullptr && !s.source->encoded) budget -= s.source->length();
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
  for (;;) {
    int64_t budget = prefill_chunk_;
    plan_running(slices, true, budget);
    plan_running(slices, false, budget);
    drop_preempted(slices);
    admit(slices, budget);
    // If nothing can go on, what runs are beams that wait for others, which have no blocks.
    if (!slices.empty() || waiting_.empty() || running_.empty()) return slices;
    preempt_last();
  }
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
      if (n_places() == max_batch_) {
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

void Scheduler::go_on(BeamSearch& search, BeamStep& step) {
  const std::vector<Sequence*>& beams = search.beams();
  for (BeamStep::Beam& beam : step.beams) {
    const Sequence& parent = *beams[beam.parent];
    beam.block_table = parent.block_table;
    beam.n_computed = parent.n_computed;
    beam.n_known = parent.n_known;
    for (const int32_t block : beam.block_table) pool_.share(block);
  }
  for (size_t i = 0; i < std::max(search.n_live, step.beams.size()); ++i) {
    Sequence& s = *beams[i];
    auto node = i < search.n_live ? take_out(s.id) : search.idle.extract(s.id);
    release_blocks(s);
    s.candidates.clear();
    s.search = i < step.beams.size() ? beams[0]->search : nullptr;
    if (s.search == nullptr) {
      search.idle.insert(std::move(node));
      continue;
    }
    BeamStep::Beam& beam = step.beams[i];
    s.tokens.swap(beam.tokens);
    s.block_table.swap(beam.block_table);
    s.n_computed = beam.n_computed;
    s.n_known = beam.n_known;
    s.score = beam.score;
    (s.block_table.empty() ? waiting_ : running_).insert(std::move(node));
  }
  search.n_live = step.beams.size();
  search.hypotheses.swap(step.hypotheses);
}

Sequences::node_type Scheduler::take_out(int64_t id) {
  auto node = running_.extract(id);
  return node ? std::move(node) : waiting_.extract(id);
}

void Scheduler::remove_beams(Sequence& first) {
  const std::shared_ptr<BeamSearch> search = first.search;
  for (size_t i = 0; i < search->n_live; ++i) {
    const auto node = take_out(search->beams()[i]->id);
    release_blocks(*node.mapped());
  }
}

bool Scheduler::remove(int64_t id) {
  for (Sequences* sequences : {&running_, &waiting_}) {
    const auto behind = sequences->upper_bound(id);
    if (behind == sequences->begin()) continue;
    const auto at = std::prev(behind);  // the sequence, or the one whose child it is
    Sequence& s = *at->second;
    if (at->first != id) {
      if (s.children.erase(id) > 0) return true;
      continue;
    }
    if (s.search != nullptr) {
      if (s.search->beams()[0] != &s) return false;  // a number that nobody was given
      remove_beams(s);
    } else {
      remove_from(*sequences, at);
    }
    return true;
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
