// How one KV head of one layer keeps the keys and values of a block's 32 positions.
//
//   f32    keys [head_dim][32]           values [32][padded_head_dim]
//   bf16   keys [head_dim / 2][32][2]    values [16][padded_head_dim][2]: position t beside t + 16
//   int8   keys [head_dim / 4][32][4]    values [32 / 4][padded_head_dim][4]    scales [keys, values][32] f32
//
// Positions lie in lanes for scores, dimensions for the weighted sum of values; elements that one instruction
// multiplies and adds lie side by side. Pairs of values are 16 positions apart, so that two vectors of probabilities
// make a vector of pairs without moving a lane. Codes of keys are biased by 128, as vpdpbusd has one unsigned operand:
// key = scale * (code - 128) with one scale a position. Probabilities are never negative, so values need no bias.
#pragma once

#include <cstdint>

namespace jiffy {

inline constexpr int kBlockSize = 32;  // positions in a block
inline constexpr int64_t kMaxHeadDim = 512;

enum class KvType : uint8_t { kF32, kBf16, kInt8 };

constexpr int64_t padded_head_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

constexpr int64_t key_bytes(KvType type, int64_t head_dim) {
  if (type == KvType::kInt8) return (head_dim + 3) / 4 * 4 * kBlockSize;
  return type == KvType::kF32 ? head_dim * kBlockSize * 4 : (head_dim + 1) / 2 * 2 * kBlockSize * 2;
}
constexpr int64_t value_bytes(KvType type, int64_t head_dim) {
  return padded_head_dim(head_dim) * kBlockSize * (type == KvType::kF32 ? 4 : type == KvType::kBf16 ? 2 : 1);
}
constexpr int64_t scale_bytes(KvType type) { return type == KvType::kInt8 ? 2 * kBlockSize * 4 : 0; }
constexpr int64_t kv_head_bytes(KvType type, int64_t head_dim) {  // a multiple of 64: all parts are aligned
  return key_bytes(type, head_dim) + value_bytes(type, head_dim) + scale_bytes(type);
}
static_assert(kv_head_bytes(KvType::kF32, 64) == 16384);
static_assert(kv_head_bytes(KvType::kBf16, 64) == 8192);
static_assert(kv_head_bytes(KvType::kInt8, 64) == 4096 + 256);
static_assert(kv_head_bytes(KvType::kInt8, 66) % 64 == 0 && kv_head_bytes(KvType::kBf16, 66) % 64 == 0);

// One KV head of one layer, through a sequence's block table. Its functions leave no symbols in kernels: the linker
// could keep one that is compiled for AVX-512 for all.
struct KvHeadView {
  KvType type;
  uint8_t* data;               // of block 0: keys, values, scales
  int64_t block_stride;        // bytes from one block to the next
  const int32_t* block_table;  // [position / kBlockSize] -> block
  int64_t head_dim;

  [[gnu::always_inline]] uint8_t* keys(int64_t position) const {
    return data + block_table[position / kBlockSize] * block_stride;
  }
  [[gnu::always_inline]] uint8_t* values(int64_t position) const { return keys(position) + key_bytes(type, head_dim); }
  [[gnu::always_inline]] float* key_scales(int64_t position) const {
    return reinterpret_cast<float*>(values(position) + value_bytes(type, head_dim));
  }
  [[gnu::always_inline]] float* value_scales(int64_t position) const { return key_scales(position) + kBlockSize; }
};

}  // namespace jiffy
