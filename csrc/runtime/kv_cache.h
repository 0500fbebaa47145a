// The memory of all keys and values, in blocks of kBlockSize positions.
#pragma once

#include <vector>

#include "base/buffer.h"
#include "base/thread_pool.h"
#include "ops/kv_layout.h"
#include "runtime/block_pool.h"

namespace jiffy {

struct BlockCopy {
  int32_t from, to;
};

class KVCache {
 public:
  // Room for `positions` >= 0; the operating system commits a block's pages when it is first used. Throws kOutOfMemory.
  // prefix_cache: the pool remembers what full blocks hold.
  KVCache(const KvLayout& shape, int64_t positions, bool prefix_cache);

  // Copies whole blocks, one after the other; each lane takes parts of all. Doesn't throw.
  void copy_blocks(const std::vector<BlockCopy>& copies, ThreadPool& pool);

  const KvLayout& layout() const { return layout_; }
  BlockPool& pool() { return pool_; }
  const BlockPool& pool() const { return pool_; }
  int64_t n_bytes() const { return static_cast<int64_t>(memory_.size()); }

 private:
  Buffer memory_;
  KvLayout layout_;
  BlockPool pool_;
};

}  // namespace jiffy
