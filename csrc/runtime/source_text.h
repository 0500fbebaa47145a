// What a decoder looks at beside its own tokens: a text that an encoder has read.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "quant/format.h"
#include "runtime/block_pool.h"

namespace jiffy {

// Memory of texts that have gone, for others: its pages are there already, and new ones cost more than what is copied.
using SpareMemory = std::vector<Buffer>;

// The tokens that may translate a text, and what the decoder's last matmul knows of them.
struct Candidates {
  Candidates(Buffer memory, std::shared_ptr<SpareMemory> spare) : memory(std::move(memory)), spare(std::move(spare)) {}
  Candidates(const Candidates&) = delete;
  Candidates& operator=(const Candidates&) = delete;
  ~Candidates() { spare->push_back(std::move(memory)); }  // into memory that its maker has reserved

  std::vector<int32_t> ids;  // ascending
  PackedMatrix weight;       // [ids, cols], in memory
  std::vector<float> bias;   // [ids], or empty
  Buffer memory;
  std::shared_ptr<SpareMemory> spare;
};

// Shared by all sequences that go on from it; its blocks are free again with the last of these.
class SourceText {
 public:
  SourceText(std::vector<int32_t> tokens, BlockPool& pool) : tokens_(std::move(tokens)), pool_(pool) {
    block_table_.reserve(n_blocks());
  }
  SourceText(const SourceText&) = delete;
  SourceText& operator=(const SourceText&) = delete;
  ~SourceText() {
    for (; !block_table_.empty(); block_table_.pop_back()) pool_.release(block_table_.back());
  }

  // Takes all blocks, or none: false if too few are free. Doesn't throw.
  bool reserve() {
    const int64_t missing = static_cast<int64_t>(n_blocks() - block_table_.size());
    if (missing > pool_.n_free()) return false;
    while (block_table_.size() < n_blocks()) block_table_.push_back(*pool_.allocate());
    return true;
  }

  const std::vector<int32_t>& tokens() const { return tokens_; }
  int64_t length() const { return static_cast<int64_t>(tokens_.size()); }
  const int32_t* block_table() const { return block_table_.data(); }
  bool encoded = false;                          // its keys and values are in its blocks
  std::unique_ptr<const Candidates> candidates;  // where there is a shortlist, once it is encoded

 private:
  size_t n_blocks() const { return (tokens_.size() + kBlockSize - 1) / kBlockSize; }

  const std::vector<int32_t> tokens_;
  std::vector<int32_t> block_table_;
  BlockPool& pool_;
};

}  // namespace jiffy
