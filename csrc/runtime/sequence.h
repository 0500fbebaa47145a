// One request on its way: its tokens, how far they are computed, and the KV blocks that hold them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "runtime/sampling.h"

namespace jiffy {

struct Sequence;
using Sequences = std::map<int64_t, std::unique_ptr<Sequence>>;  // by number, which is the order of arrival

struct Sequence {
  int64_t id = 0;
  std::vector<int32_t> tokens;  // prompt, then what was generated
  int64_t n_prompt = 0;
  int64_t n_computed = 0;  // tokens whose keys and values are in the cache
  std::vector<int32_t> block_table;
  size_t n_known = 0;  // blocks at the beginning of the table that the pool knows by their tokens
  SamplingParams params;
  Sequences children;  // other completions of this prompt, which begin when it is computed; they have no blocks yet

  int64_t n_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t n_generated() const { return n_tokens() - n_prompt; }
  int64_t n_waiting() const { return n_tokens() - n_computed; }  // tokens to compute before the next can be sampled
};

}  // namespace jiffy
