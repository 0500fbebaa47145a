// Which blocks of a KV cache are free, and how many sequences use each of the others; pure logic.
#pragma once

#include <cassert>
#include <cstdint>
#include <optional>
#include <vector>

namespace jiffy {

class BlockPool {
 public:
  explicit BlockPool(int64_t n_blocks) : users_(static_cast<size_t>(n_blocks), 0) {
    free_.reserve(users_.size());  // all that release() will ever need: it doesn't throw
    for (int64_t i = n_blocks; i-- > 0;) free_.push_back(static_cast<int32_t>(i));
  }

  // The block freed last, which is most likely in cache, with one user; none when all are used.
  std::optional<int32_t> allocate() {
    if (free_.empty()) return {};
    const int32_t block = free_.back();
    free_.pop_back();
    users_[static_cast<size_t>(block)] = 1;
    return block;
  }

  // One user more of an allocated block.
  void share(int32_t block) {
    assert(n_users(block) > 0);
    ++users_[static_cast<size_t>(block)];
  }

  // One user less; the last one frees the block.
  void release(int32_t block) {
    assert(n_users(block) > 0);
    if (--users_[static_cast<size_t>(block)] == 0) free_.push_back(block);
  }

  int64_t n_users(int32_t block) const { return users_[static_cast<size_t>(block)]; }
  int64_t n_free() const { return static_cast<int64_t>(free_.size()); }
  int64_t n_blocks() const { return static_cast<int64_t>(users_.size()); }

 private:
  std::vector<int32_t> free_;
  std::vector<int32_t> users_;  // [n_blocks]; 0: free
};

}  // namespace jiffy
