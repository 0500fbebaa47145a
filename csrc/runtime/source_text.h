// What a decoder looks at beside its own tokens: a text that an encoder has read.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/block_pool.h"

namespace jiffy {

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
  bool encoded = false;  // its keys and values are in its blocks

 private:
  size_t n_blocks() const { return (tokens_.size() + kBlockSize - 1) / kBlockSize; }

  const std::vector<int32_t> tokens_;
  std::vector<int32_t> block_table_;
  BlockPool& pool_;
};

}  // namespace jiffy
