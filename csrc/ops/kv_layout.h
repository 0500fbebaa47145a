// Where keys and values of a position lie in the memory of a KV cache.
//
//   block   [layer][kv_head] { keys [head_dim][kBlockSize]   values [kBlockSize][padded_head_dim] }
//
// All layers of a block are together: a short sequence touches few pages of a large cache.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernels.h"

namespace jiffy {

struct KvLayout {
  float* data = nullptr;
  int64_t n_layers = 0, n_kv_heads = 0, head_dim = 0;

  constexpr int64_t padded_head_dim() const { return (head_dim + 15) / 16 * 16; }
  constexpr int64_t head_floats() const { return kBlockSize * (head_dim + padded_head_dim()); }
  constexpr int64_t block_floats() const { return n_layers * n_kv_heads * head_floats(); }
  constexpr int64_t block_bytes() const { return block_floats() * static_cast<int64_t>(sizeof(float)); }

  KvHeadView head(int64_t layer, int64_t kv_head, const int32_t* block_table) const {
    float* keys = data + (layer * n_kv_heads + kv_head) * head_floats();
    return {keys, keys + head_dim * kBlockSize, block_floats(), block_table, head_dim, padded_head_dim()};
  }
};

}  // namespace jiffy
