// The vectors behind a BatchView.
#pragma once

#include <vector>

#include "ops/batch.h"
#include "runtime/scheduler.h"

namespace jiffy {

class Batch {
 public:
  // Asks for the logits of the last row of each slice that has an output, of the candidates where its source text has
  // some; or of every row, and of all tokens. source: where the keys and values of the sequences' source texts are, for
  // a program with cross-attention.
  explicit Batch(const std::vector<Slice>& slices, bool all_rows = false, const KvLayout* source = nullptr);
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  BatchView view() const;
  int64_t n_outputs() const { return static_cast<int64_t>(output_rows_.size()); }

 private:
  void add_candidates(const SourceText* source);

  std::vector<int32_t> token_ids_, positions_, output_rows_;
  std::vector<SliceView> slices_;
  std::vector<CandidateRun> candidates_;
  const KvLayout* source_;
};

}  // namespace jiffy
