#include "runtime/prefix_index.h"

#include <algorithm>
#include <bit>
#include <cassert>

#include "base/splitmix.h"

namespace jiffy {

uint64_t prefix_hash(uint64_t parent, const int32_t* tokens) {
  uint64_t hash = parent;
  for (int i = 0; i < kBlockSize; ++i) hash = splitmix64(hash ^ static_cast<uint32_t>(tokens[i]));
  return hash;
}

PrefixIndex::PrefixIndex(int64_t n_blocks, PrefixHash hash) : hash_(hash) {
  if (hash == nullptr) return;
  entries_.resize(static_cast<size_t>(n_blocks));
  buckets_.assign(std::bit_ceil(entries_.size()), kNoBlock);
}

uint64_t PrefixIndex::hash_behind(int32_t parent, const int32_t* tokens) const {
  return hash_(parent == kNoBlock ? 0 : at(parent).hash, tokens);
}

std::optional<int32_t> PrefixIndex::find(int32_t parent, const int32_t* tokens) const {
  if (!may_be_parent(parent)) return {};
  const uint64_t hash = hash_behind(parent, tokens), parent_serial = serial(parent);
  for (int32_t block = buckets_[bucket(hash)]; block != kNoBlock; block = at(block).next) {
    const Entry& e = at(block);
    if (e.hash == hash && e.parent_serial == parent_serial && std::equal(e.tokens.begin(), e.tokens.end(), tokens)) {
      return block;
    }
  }
  return {};
}

void PrefixIndex::insert(int32_t block, int32_t parent, const int32_t* tokens) {
  assert(may_be_parent(parent) && !contains(block));
  Entry& e = at(block);
  e.hash = hash_behind(parent, tokens);
  e.parent_serial = serial(parent);
  e.serial = ++last_serial_;
  std::copy_n(tokens, kBlockSize, e.tokens.begin());
  e.next = buckets_[bucket(e.hash)];
  buckets_[bucket(e.hash)] = block;
}

void PrefixIndex::erase(int32_t block) {
  assert(contains(block));
  int32_t* link = &buckets_[bucket(at(block).hash)];
  while (*link != block) link = &at(*link).next;
  *link = at(block).next;
  at(block).serial = 0;
}

}  // namespace jiffy
