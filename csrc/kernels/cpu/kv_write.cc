// Stores keys and values of consecutive positions in a sequence's blocks, in the cache's type (kv_head.h).
#include "base/dtype.h"
#include "kernels/cpu/int8_grid.h"
#include "kernels/cpu/kernels.h"

namespace jiffy::JIFFY_ISA {
namespace {

void write_floats(const KvHeadView& kv, int64_t position, const float* k, const float* v) {
  const int64_t token = position % kBlockSize;
  float* keys = reinterpret_cast<float*>(kv.keys(position)) + token;
  for (int64_t d = 0; d < kv.head_dim; ++d) keys[d * kBlockSize] = k[d];
  float* values = reinterpret_cast<float*>(kv.values(position)) + token * padded_head_dim(kv.head_dim);
  for (int64_t d = 0; d < kv.head_dim; ++d) values[d] = v[d];
}

void write_bf16(const KvHeadView& kv, int64_t position, const float* k, const float* v) {
  constexpr int64_t kHalf = kBlockSize / 2;
  const int64_t token = position % kBlockSize;
  uint16_t* keys = reinterpret_cast<uint16_t*>(kv.keys(position)) + token * 2;
  for (int64_t d = 0; d < kv.head_dim; ++d) keys[d / 2 * kBlockSize * 2 + d % 2] = f32_to_bf16(k[d]);
  if (kv.head_dim % 2 != 0) keys[kv.head_dim / 2 * kBlockSize * 2 + 1] = 0;
  uint16_t* values = reinterpret_cast<uint16_t*>(kv.values(position));
  values += token % kHalf * padded_head_dim(kv.head_dim) * 2 + token / kHalf;
  for (int64_t d = 0; d < kv.head_dim; ++d) values[d * 2] = f32_to_bf16(v[d]);
}

void write_codes(const KvHeadView& kv, int64_t position, const float* k, const float* v) {
  constexpr uint8_t kBias = 0x80;  // + 128 modulo 256
  alignas(64) int8_t codes[kMaxHeadDim];
  const int64_t token = position % kBlockSize;
  kv.key_scales(position)[token] = quantize_lanes(k, kv.head_dim, codes).scale;
  uint8_t* keys = kv.keys(position) + token * 4;
  for (int64_t d = 0; d < kv.head_dim; ++d) {
    keys[d / 4 * kBlockSize * 4 + d % 4] = static_cast<uint8_t>(codes[d]) ^ kBias;
  }
  kv.value_scales(position)[token] = quantize_lanes(v, kv.head_dim, codes).scale;
  uint8_t* values = kv.values(position) + token / 4 * padded_head_dim(kv.head_dim) * 4 + token % 4;
  for (int64_t d = 0; d < kv.head_dim; ++d) values[d * 4] = static_cast<uint8_t>(codes[d]);
}

}  // namespace

void kv_write(const KvWriteArgs& p) {
  const auto write = p.kv.type == KvType::kF32 ? write_floats : p.kv.type == KvType::kBf16 ? write_bf16 : write_codes;
  for (int64_t r = p.begin; r < p.end; ++r) {
    write(p.kv, p.position + r - p.begin, p.k + r * p.stride, p.v + r * p.stride);
  }
}

}  // namespace jiffy::JIFFY_ISA
