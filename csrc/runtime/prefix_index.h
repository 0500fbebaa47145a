// Full KV blocks by what they hold: kBlockSize tokens behind those of a parent block; pure logic.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/cpu/kernels.h"

namespace jiffy {

inline constexpr int32_t kNoBlock = -1;  // the parent of a sequence's first block

// Of a block's tokens [kBlockSize] and its parent's hash (0: none).
using PrefixHash = uint64_t (*)(uint64_t parent, const int32_t* tokens);
uint64_t prefix_hash(uint64_t parent, const int32_t* tokens);

// A hash only leads to candidates; tokens and parents are compared. The parent is known by a serial number that every
// entry gets anew, so that a block which was given out again is never taken for what it once held. Nothing but the
// constructor allocates.
class PrefixIndex {
 public:
  // `hash` nullptr: stays empty.
  PrefixIndex(int64_t n_blocks, PrefixHash hash);

  bool enabled() const { return hash_ != nullptr; }
  bool contains(int32_t block) const { return enabled() && at(block).serial != 0; }

  // The block that holds `tokens` behind `parent` (a block of the index, or kNoBlock).
  std::optional<int32_t> find(int32_t parent, const int32_t* tokens) const;

  // `block` holds `tokens` behind `parent` from now on; find() has found no other.
  void insert(int32_t block, int32_t parent, const int32_t* tokens);
  void erase(int32_t block);

 private:
  struct Entry {
    uint64_t serial = 0, parent_serial = 0, hash = 0;  // serial 0: not in the index
    int32_t next = kNoBlock;                           // in its bucket
    std::array<int32_t, kBlockSize> tokens = {};
  };

  bool may_be_parent(int32_t block) const { return enabled() && (block == kNoBlock || contains(block)); }
  uint64_t hash_behind(int32_t parent, const int32_t* tokens) const;
  uint64_t serial(int32_t block) const { return block == kNoBlock ? 0 : at(block).serial; }
  Entry& at(int32_t block) { return entries_[static_cast<size_t>(block)]; }
  const Entry& at(int32_t block) const { return entries_[static_cast<size_t>(block)]; }
  size_t bucket(uint64_t hash) const { return static_cast<size_t>(hash) & (buckets_.size() - 1); }

  PrefixHash hash_;
  std::vector<Entry> entries_;    // [n_blocks]
  std::vector<int32_t> buckets_;  // [a power of two] -> the first block
  uint64_t last_serial_ = 0;
};

}  // namespace jiffy
