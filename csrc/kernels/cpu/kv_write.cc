// Stores keys and values of consecutive positions in a sequence's blocks, in the cache's type (kv_head.h).
#include "kernels/cpu/four_rows.h"
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

constexpr int64_t kHalf = kBlockSize / 2, kKeyLine = 2 * kLanes, kRowsAhead = 8;

void write_bf16_keys(const KvHeadView& kv, int64_t position, const float* k) {
  uint8_t* keys = kv.keys(position) + position % kBlockSize * 4;
  for (int64_t d = 0; d < kv.head_dim; d += kLanes, keys += kLanes / 2 * kBlockSize * 4) {
    const int n = static_cast<int>(smaller(kLanes, kv.head_dim - d));
    uint16_t rounded[kLanes];
    store_bf16(rounded, load_first(k + d, n));
    for (int i = 0; i < n; i += 2) __builtin_memcpy(keys + i / 2 * kBlockSize * 4, rounded + i, 4);
  }
}

// Of four positions of a block, whole lines of dimensions (keys and values of a position and a head in L1: 28 to 15
// ns).
void write_four_bf16_keys(const KvHeadView& kv, int64_t position, const float* k, int64_t stride) {
  const DwordRows to{reinterpret_cast<int8_t*>(kv.keys(position)), kBlockSize};
  for (int64_t d = 0; d < kv.head_dim; d += kKeyLine) {
    Codes line[kFourRows];
    for (int r = 0; r < kFourRows; ++r) {
      const float* const from = k + r * stride + d;
      line[r] = pack_bf16(load(from), load(from + kLanes));
    }
    store_lines(to, position % kBlockSize, d / 2, kPairOrder, line);
  }
}

// A head takes a few lines of each row, which another lane may have written, and which no hardware asks for (BERT-base,
// 256 tokens on two lanes: 70 to 59 us).
void prefetch_rows(const float* x, int64_t stride, int64_t rows, int64_t head_dim) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t d = 0; d < head_dim; d += kLanes) __builtin_prefetch(x + r * stride + d);
  }
}

// Four positions at a time where they lie so in a block.
void write_bf16_keys(const KvWriteArgs& p) {
  for (int64_t r = p.begin; r < p.end;) {
    const int64_t position = p.position + r - p.begin, left = p.end - r;
    const bool four = position % kFourRows == 0 && left >= kFourRows && p.kv.head_dim % kKeyLine == 0;
    const float* const k = p.k + r * p.stride;
    const int64_t rows = four ? kFourRows : 1;
    if (left > kRowsAhead) prefetch_rows(k + kRowsAhead * p.stride, p.stride, rows, p.kv.head_dim);
    prefetch_rows(p.v + r * p.stride, p.stride, rows, p.kv.head_dim);
    four ? write_four_bf16_keys(p.kv, position, k, p.stride) : write_bf16_keys(p.kv, position, k);
    r += rows;
  }
}

void write_bf16_values(const KvHeadView& kv, int64_t position, const float* v) {
  const int64_t token = position % kBlockSize;
  uint8_t* values = kv.values(position);
  values += (token % kHalf * padded_head_dim(kv.head_dim) * 2 + token / kHalf) * 2;
  for (int64_t d = 0; d < kv.head_dim; d += kLanes, values += kLanes * 4) {
    const int n = static_cast<int>(smaller(kLanes, kv.head_dim - d));
    uint16_t rounded[kLanes];
    store_bf16(rounded, load_first(v + d, n));
    for (int i = 0; i < n; ++i) __builtin_memcpy(values + i * 4, rounded + i, 2);
  }
}

// Of a position in the first half of a block and of the one beside it, as whole lines.
void write_bf16_pairs(const KvHeadView& kv, int64_t position, const float* v, const float* beside) {
  uint16_t* values = reinterpret_cast<uint16_t*>(kv.values(position));
  values += position % kBlockSize * padded_head_dim(kv.head_dim) * 2;
  const auto rounded = [&](const float* x, int64_t d) {
    return nearest_bf16(load_first(x + d, static_cast<int>(smaller(kLanes, kv.head_dim - d))));
  };
  for (int64_t d = 0; d < kv.head_dim; d += kLanes) store_pairs(values + 2 * d, rounded(v, d), rounded(beside, d));
}

void write_bf16(const KvWriteArgs& p) {
  write_bf16_keys(p);
  for (int64_t r = p.begin; r < p.end; ++r) {
    const int64_t position = p.position + r - p.begin;
    const float* const v = p.v + r * p.stride;
    if (position % kBlockSize >= kHalf) {
      if (r - kHalf < p.begin) write_bf16_values(p.kv, position, v);  // else written beside the other
    } else if (r + kHalf < p.end) {
      write_bf16_pairs(p.kv, position, v, v + kHalf * p.stride);
    } else {
      write_bf16_values(p.kv, position, v);
    }
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
  if (p.kv.type == KvType::kBf16) return write_bf16(p);
  const auto write = p.kv.type == KvType::kF32 ? write_floats : write_codes;
  for (int64_t r = p.begin; r < p.end; ++r) {
    write(p.kv, p.position + r - p.begin, p.k + r * p.stride, p.v + r * p.stride);
  }
}

}  // namespace jiffy::JIFFY_ISA
