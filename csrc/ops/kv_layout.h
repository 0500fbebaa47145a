// Where keys and values of a position lie in the memory of a KV cache.
//
//   block   [layer][kv_head] of what kernels/cpu/kv_head.h draws
//
// All layers of a block are together: a short sequence touches few pages of a large cache.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernels.h"

namespace jiffy {

struct KvLayout {
  uint8_t* data = nullptr;
  KvType type = KvType::kF32;
  int64_t n_layers = 0, n_kv_heads = 0, head_dim = 0;

  constexpr int64_t block_bytes() const { return n_layers * n_kv_heads * kv_head_bytes(type, head_dim); }

  KvHeadView head(int64_t layer, int64_t kv_head, const int32_t* block_table) const {
    uint8_t* head = data + (layer * n_kv_heads + kv_head) * kv_head_bytes(type, head_dim);
    return {type, head, block_bytes(), block_table, head_dim};
  }
};

}  // namespace jiffy
