#include "runtime/batch.h"

#include <algorithm>

namespace jiffy {

Batch::Batch(const std::vector<Slice>& slices, bool all_rows, const KvLayout* source) : source_(source) {
  for (const Slice& slice : slices) {
    const Sequence& s = *slice.sequence;
    const int64_t first = static_cast<int64_t>(token_ids_.size());
    for (int64_t i = 0; i < slice.count; ++i) {
      token_ids_.push_back(s.tokens[static_cast<size_t>(s.n_computed + i)]);
      positions_.push_back(static_cast<int32_t>(s.n_computed + i));
      if (all_rows || (slice.output && i == slice.count - 1)) output_rows_.push_back(static_cast<int32_t>(first + i));
    }
    if (!all_rows && slice.output) add_candidates(s.source.get());
    SliceView view{first, first + slice.count, s.n_computed, s.block_table.data()};
    if (s.source != nullptr) {
      view.source_table = s.source->block_table();
      view.source_length = s.source->length();
    }
    slices_.push_back(view);
  }
  const auto all_wanted = [](const CandidateRun& run) { return run.weight.data == nullptr; };
  if (std::all_of(candidates_.begin(), candidates_.end(), all_wanted)) candidates_.clear();
}

BatchView Batch::view() const {
  return {token_ids_.data(),
          nullptr,
          positions_.data(),
          static_cast<int64_t>(token_ids_.size()),
          slices_.data(),
          static_cast<int64_t>(slices_.size()),
          output_rows_.data(),
          n_outputs(),
          source_,
          candidates_};
}

// Of the last output row, with the rows before it if they have the same.
void Batch::add_candidates(const SourceText* source) {
  if (source == nullptr) return;
  CandidateRun run{n_outputs() - 1, n_outputs(), {}, nullptr};
  if (source->candidates != nullptr) {
    run.weight = source->candidates->weight;
    if (!source->candidates->bias.empty()) run.bias = source->candidates->bias.data();
  }
  if (!candidates_.empty() && candidates_.back().weight.data == run.weight.data) {
    candidates_.back().end = run.end;
  } else {
    candidates_.push_back(run);
  }
}

}  // namespace jiffy
