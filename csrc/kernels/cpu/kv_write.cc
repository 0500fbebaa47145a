// Stores keys and values of consecutive positions in a sequence's blocks, in the cache's type (kv_head.h).
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
  uint8_t* keys = kv.keys(position) + token * 4;
  uint8_t* values = kv.values(position);
  values += (token % kHalf * padded_head_dim(kv.head_dim) * 2 + token / kHalf) * 2;
  for (int64_t d = 0; d < kv.head_dim; d += kLanes, keys += kLanes / 2 * kBlockSize * 4, values += kLanes * 4) {
    const int n = static_cast<int>(smaller(kLanes, kv.head_dim - d));
    uint16_t rounded[kLanes];
    store_bf16(rounded, load_first(k + d, n));
    for (int i = 0; i < n; i += 2) __builtin_memcpy(keys + i / 2 * kBlockSize * 4, rounded + i, 4);
    store_bf16(rounded, load_first(v + d, n));
    for (int i = 0; i < n; ++i) __builtin_memcpy(values + i * 4, rounded + i, 2);
  }
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
