#include "runtime/kv_cache.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <limits>
#include <string>

#include "base/error.h"

namespace jiffy {
namespace {

int64_t n_blocks_for(int64_t positions) { return positions / kBlockSize + (positions % kBlockSize != 0); }

Buffer allocate(const KvLayout& shape, int64_t positions) {
  const std::string what = "the KV cache of " + std::to_string(positions) + " positions";
  const int64_t n_blocks = n_blocks_for(positions);
  const int64_t block_bytes = shape.block_bytes();
  size_t bytes = 0;
  if (n_blocks > std::numeric_limits<int32_t>::max() || __builtin_mul_overflow(n_blocks, block_bytes, &bytes)) {
    fail(ErrorKind::kOutOfMemory, what, "at most 2147483647 blocks in 2^64 bytes",
         std::to_string(n_blocks) + " blocks of " + std::to_string(block_bytes) + " bytes");
  }
  return Buffer::allocate(bytes, what);
}

}  // namespace

KVCache::KVCache(const KvLayout& shape, int64_t positions, bool prefix_cache)
    : memory_(allocate(shape, positions)),
      layout_(shape),
      pool_(n_blocks_for(positions), prefix_cache ? prefix_hash : nullptr) {
  layout_.data = memory_.as<uint8_t>();
}

// Parts of a block that lanes take: long enough to be worth a turn.
constexpr int64_t kCopiedAtOnce = int64_t{1} << 15;

void KVCache::copy_blocks(const std::vector<BlockCopy>& copies, ThreadPool& pool) {
  if (copies.empty()) return;
  const int64_t bytes = layout_.block_bytes();
  const auto copy_parts = [&](Lane& lane) {
    for (int64_t begin; (begin = lane.next_chunk() * kCopiedAtOnce) < bytes;) {
      const auto n = static_cast<size_t>(std::min(kCopiedAtOnce, bytes - begin));
      for (const BlockCopy& c : copies) {
        uint8_t* const at = memory_.as<uint8_t>() + begin;
        std::memcpy(at + c.to * bytes, at + c.from * bytes, n);
      }
    }
  };
  pool.run(std::ref(copy_parts));  // in a std::function that needs no memory
}

}  // namespace jiffy
