// Which blocks of a KV cache are free, how many sequences use each of the others, and which hold a known prefix; pure
// logic, without tensors.
#pragma once

#include <cassert>
#include <cstdint>
#include <optional>
#include <vector>

#include "runtime/prefix_index.h"

namespace jiffy {

// A block without users is free. What a registered one holds stays known until allocate() gives it out, which it does
// when nothing else is free, the least recently released first. Nothing but the constructor allocates memory.
class BlockPool {
 public:
  // `hash` nullptr: no block is ever registered.
  explicit BlockPool(int64_t n_blocks, PrefixHash hash = prefix_hash);

  // A block with one user; none when all are used.
  std::optional<int32_t> allocate();

  // One user more, of a block that is used or that find() has found.
  void share(int32_t block);

  // One user less; the last one frees the block. The blocks of a prefix are best released from its end: it is worth
  // nothing without its beginning.
  void release(int32_t block);

  // The block that holds `tokens` [kBlockSize] behind the block `parent` (kNoBlock: at the beginning of a sequence).
  std::optional<int32_t> find(int32_t parent, const int32_t* tokens) const { return index_.find(parent, tokens); }

  // `block`, which its only user has filled with `tokens` behind `parent`, is found by them from now on. If another
  // block holds the same already, the user gets that one, and its own is free. Returns the user's block.
  int32_t register_full(int32_t block, int32_t parent, const int32_t* tokens);

  int64_t n_users(int32_t block) const { return users_[static_cast<size_t>(block)]; }
  int64_t n_free() const { return static_cast<int64_t>(free_.size()) + n_cached_; }
  int64_t n_blocks() const { return static_cast<int64_t>(users_.size()); }

 private:
  struct Links {
    int32_t before, after;
  };
  Links& links(int32_t block) { return links_[static_cast<size_t>(block + 1)]; }
  void link_last(int32_t block);
  void unlink(int32_t block);

  PrefixIndex index_;
  std::vector<int32_t> free_;   // without known content; the last one, which is most likely in cache, goes first
  std::vector<int32_t> users_;  // [n_blocks]
  std::vector<Links> links_;    // [1 + n_blocks] of the registered blocks without users, a ring through kNoBlock
  int64_t n_cached_ = 0;        // blocks in the ring
};

}  // namespace jiffy
