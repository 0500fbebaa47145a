#include "runtime/block_pool.h"

namespace jiffy {

BlockPool::BlockPool(int64_t n_blocks, PrefixHash hash)
    : index_(n_blocks, hash),
      users_(static_cast<size_t>(n_blocks), 0),
      links_(users_.size() + 1, {kNoBlock, kNoBlock}) {
  free_.reserve(users_.size());
  for (int64_t i = n_blocks; i-- > 0;) free_.push_back(static_cast<int32_t>(i));
}

std::optional<int32_t> BlockPool::allocate() {
  int32_t block = links(kNoBlock).after;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else if (block != kNoBlock) {
    unlink(block);
    index_.erase(block);
  } else {
    return {};
  }
  users_[static_cast<size_t>(block)] = 1;
  return block;
}

void BlockPool::share(int32_t block) {
  assert(n_users(block) > 0 || index_.contains(block));
  if (users_[static_cast<size_t>(block)]++ == 0) unlink(block);
}

void BlockPool::release(int32_t block) {
  assert(n_users(block) > 0);
  if (--users_[static_cast<size_t>(block)] > 0) return;
  if (index_.contains(block)) {
    link_last(block);
  } else {
    free_.push_back(block);
  }
}

int32_t BlockPool::register_full(int32_t block, int32_t parent, const int32_t* tokens) {
  assert(n_users(block) == 1);
  if (!index_.enabled()) return block;
  const std::optional<int32_t> known = find(parent, tokens);
  if (!known) {
    index_.insert(block, parent, tokens);
    return block;
  }
  share(*known);
  release(block);
  return *known;
}

void BlockPool::link_last(int32_t block) {
  const int32_t last = links(kNoBlock).before;
  links(block) = {last, kNoBlock};
  links(last).after = links(kNoBlock).before = block;
  ++n_cached_;
}

void BlockPool::unlink(int32_t block) {
  const auto [before, after] = links(block);
  links(before).after = after;
  links(after).before = before;
  --n_cached_;
}

}  // namespace jiffy
