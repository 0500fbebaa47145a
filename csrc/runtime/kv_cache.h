// The memory of all keys and values, in blocks of kBlockSize positions.
#pragma once

#include "base/buffer.h"
#include "ops/kv_layout.h"
#include "runtime/block_pool.h"

namespace jiffy {

class KVCache {
 public:
  // Room for `positions`; the operating system commits a block's pages when it is first used. Throws kOutOfMemory.
  KVCache(const KvLayout& shape, int64_t positions)
      : pool_((positions + kBlockSize - 1) / kBlockSize),
        memory_(Buffer::allocate(static_cast<size_t>(pool_.n_blocks() * shape.block_floats()) * sizeof(float),
                                 "the KV cache of " + std::to_string(positions) + " positions")),
        layout_(shape) {
    layout_.data = memory_.as<float>();
  }

  const KvLayout& layout() const { return layout_; }
  BlockPool& pool() { return pool_; }
  int64_t n_bytes() const { return static_cast<int64_t>(memory_.size()); }

 private:
  BlockPool pool_;
  Buffer memory_;
  KvLayout layout_;
};

}  // namespace jiffy
