// Which blocks of a KV cache are free; pure logic.
#pragma once

#include <cassert>
#include <cstdint>
#include <optional>
#include <vector>

namespace jiffy {

class BlockPool {
 public:
  explicit BlockPool(int64_t n_blocks) : used_(static_cast<size_t>(n_blocks), false) {
    for (int64_t i = n_blocks; i-- > 0;) free_.push_back(static_cast<int32_t>(i));
  }

  // The block freed last, which is most likely in cache; none when all are used.
  std::optional<int32_t> allocate() {
    if (free_.empty()) return {};
    const int32_t block = free_.back();
    free_.pop_back();
    used_[static_cast<size_t>(block)] = true;
    return block;
  }

  void release(int32_t block) {
    assert(used_[static_cast<size_t>(block)]);
    used_[static_cast<size_t>(block)] = false;
    free_.push_back(block);
  }

  int64_t n_free() const { return static_cast<int64_t>(free_.size()); }
  int64_t n_blocks() const { return static_cast<int64_t>(used_.size()); }

 private:
  std::vector<int32_t> free_;
  std::vector<bool> used_;
};

}  // namespace jiffy
