// One request on its way: its tokens, how far they are computed, and the KV blocks that hold them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/beam_search.h"
#include "runtime/sampling.h"
#include "runtime/source_text.h"

namespace jiffy {

struct Sequence {
  int64_t id = 0;
  std::vector<int32_t> tokens;  // prompt, then what was generated
  int64_t n_prompt = 0;
  int64_t n_computed = 0;  // tokens whose keys and values are in the cache
  std::vector<int32_t> block_table;
  size_t n_known = 0;  // blocks at the beginning of the table that the pool knows by their tokens
  SamplingParams params;
  Sequences children;  // other completions of this prompt, which begin when it is computed; they have no blocks yet

  std::shared_ptr<SourceText> source = nullptr;  // of a decoder with cross-attention
  std::shared_ptr<BeamSearch> search = nullptr;  // of a beam that lives
  float score = 0.0f;                            // of a beam: as a Candidate's
  std::vector<Candidate> candidates = {};        // of a beam whose tokens are all computed; it waits for the others

  bool waits_for_others() const { return !candidates.empty(); }
  int64_t n_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t n_generated() const { return n_tokens() - n_prompt; }
  int64_t n_waiting() const { return n_tokens() - n_computed; }  // tokens to compute before the next can be sampled
};

}  // namespace jiffy
