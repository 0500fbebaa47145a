// What one step works on: plain views, filled by runtime.
#pragma once

#include <cstdint>
#include <span>

#include "quant/format.h"

namespace jiffy {

struct KvLayout;

// Consecutive output rows of which only some logits are wanted: those of a matrix made of rows of the last matmul's.
struct CandidateRun {
  int64_t begin, end;   // output rows
  PackedMatrix weight;  // [n_candidates, cols]; data == nullptr: all logits are wanted, of the matmul's own
  const float* bias;    // [n_candidates], nullptr beside a matmul without one
};

// Consecutive token rows of one sequence: a prefill chunk, or one decode token.
struct SliceView {
  int64_t begin, end;          // token rows
  int64_t position;            // of row `begin` within its sequence
  const int32_t* block_table;  // [position / kBlockSize] -> KV block; covers every position up to the slice's end
  // The text that cross-attention looks at: its blocks of BatchView::source, and how many positions it has.
  const int32_t* source_table = nullptr;
  int64_t source_length = 0;
};

// A ragged batch. `outputs` are the token rows whose logits are asked for; of a program that pools, one for each slice.
struct BatchView {
  const int32_t* token_ids;  // [n_tokens]
  const int32_t* type_ids;   // [n_tokens], for a program with a table of types
  const int32_t* positions;  // [n_tokens]
  int64_t n_tokens;
  const SliceView* slices;  // [n_slices], in the order of their rows, which they cover
  int64_t n_slices;
  const int32_t* output_rows;  // [n_outputs]
  int64_t n_outputs;
  const KvLayout* source = nullptr;               // for a program with cross-attention
  std::span<const CandidateRun> candidates = {};  // of all output rows, in order; none: all logits are wanted
};

}  // namespace jiffy
