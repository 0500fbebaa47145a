#include "runtime/scheduler.h"

#include <algorithm>

namespace jiffy {

void Scheduler::add(std::unique_ptr<Sequence> sequence) { waiting_.push_back(std::move(sequence)); }

void Scheduler::release_blocks(Sequence& sequence) {
  for (const int32_t block : sequence.block_table) pool_.release(block);
  sequence.block_table.clear();
  sequence.n_computed = 0;
}

void Scheduler::preempt_last() {
  release_blocks(*running_.back());
  waiting_.push_front(std::move(running_.back()));
  running_.pop_back();
}

bool Scheduler::reserve(Sequence& sequence, int64_t positions) {
  const size_t wanted = static_cast<size_t>((positions + kBlockSize - 1) / kBlockSize);
  sequence.block_table.reserve(wanted);  // so that no block is lost between the pool and the table
  while (sequence.block_table.size() < wanted) {
    if (const std::optional<int32_t> block = pool_.allocate()) {
      sequence.block_table.push_back(*block);
      continue;
    }
    if (running_.empty()) return false;
    const bool itself = running_.back().get() == &sequence;
    preempt_last();
    if (itself) return false;
  }
  return true;
}

// One token of each decoding sequence, or chunks of those in prefill.
void Scheduler::plan_running(std::vector<Slice>& slices, bool decoding, int64_t& budget) {
  for (size_t i = 0; i < running_.size(); ++i) {  // reserve() may take sequences off the end
    Sequence& s = *running_[i];
    if ((s.n_waiting() == 1) != decoding) continue;
    const int64_t count = decoding ? 1 : std::min(budget, s.n_waiting());
    if (count == 0 || !reserve(s, s.n_computed + count)) continue;
    if (!decoding) budget -= count;
    slices.push_back({&s, count, count == s.n_waiting()});
  }
}

void Scheduler::admit(std::vector<Slice>& slices, int64_t budget) {
  while (!waiting_.empty() && budget > 0 && n_running() < max_batch_) {
    Sequence& s = *waiting_.front();
    const int64_t count = std::min(budget, s.n_waiting());
    // A newcomer takes free blocks only: it must not push out those that came before.
    if (pool_.n_free() * kBlockSize < count || !reserve(s, count)) return;
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
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

bool Scheduler::remove(int64_t id) {
  const auto has_id = [id](const std::unique_ptr<Sequence>& s) { return s->id == id; };
  if (const auto it = std::find_if(running_.begin(), running_.end(), has_id); it != running_.end()) {
    release_blocks(**it);
    running_.erase(it);
    return true;
  }
  const auto it = std::find_if(waiting_.begin(), waiting_.end(), has_id);
  if (it == waiting_.end()) return false;
  waiting_.erase(it);
  return true;
}

}  // namespace jiffy
