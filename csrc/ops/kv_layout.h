// Where keys and values of a position lie in the memory of a KV cache, and the states of recurrent layers behind it.
//
//   block   [layer][kv_head] of what kernels/cpu/kv_head.h draws, then [state layer][32][state_stride] f32
//
// All layers of a block are together: a short sequence touches few pages of a large cache. A state is kept for every
// position, so that whoever shares or copies a block has all that a sequence needs to go on from there.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernels.h"

namespace jiffy {

struct KvLayout {
  uint8_t* data = nullptr;
  KvType type = KvType::kF32;
  int64_t n_layers = 0, n_kv_heads = 0, head_dim = 0;
  int64_t n_state_layers = 0, state_dim = 0;

  constexpr int64_t kv_bytes() const { return n_layers * n_kv_heads * kv_head_bytes(type, head_dim); }
  constexpr int64_t state_stride() const { return (state_dim + 15) / 16 * 16; }
  constexpr int64_t block_bytes() const {
    return kv_bytes() + n_state_layers * kBlockSize * state_stride() * static_cast<int64_t>(sizeof(float));
  }

  // [state_dim] behind the token at `position`.
  float* state(int64_t layer, const int32_t* block_table, int64_t position) const {
    uint8_t* const block = data + block_table[position / kBlockSize] * block_bytes() + kv_bytes();
    return reinterpret_cast<float*>(block) + (layer * kBlockSize + position % kBlockSize) * state_stride();
  }

  KvHeadView head(int64_t layer, int64_t kv_head, const int32_t* block_table) const {
    uint8_t* head = data + (layer * n_kv_heads + kv_head) * kv_head_bytes(type, head_dim);
    return {type, head, block_bytes(), block_table, head_dim};
  }
};

}  // namespace jiffy
