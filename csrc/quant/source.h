// The number formats that model files hold, row by row, and how a row becomes floats.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace jiffy {

// q4_0, q4_1 and q8_0 are ggml's blocks of 32 weights (ggml-common.h):
//   q4_0  f16 d, 16 bytes                 weight[j] = d * (nibble - 8); low nibbles are 0..15, high ones 16..31
//   q4_1  f16 d, f16 m, 16 bytes          weight[j] = d * nibble + m
//   q8_0  f16 d, 32 int8                  weight[j] = d * q
enum class SourceType : uint8_t { kF32, kF16, kBF16, kQ4_0, kQ4_1, kQ8_0 };

inline constexpr int kSourceBlock = 32;

constexpr bool is_quantized(SourceType type) { return type >= SourceType::kQ4_0; }

// "f32", "f16", "bf16", "q4_0", "q4_1" or "q8_0"; throws Error kUnsupported naming `where`.
SourceType parse_source(std::string_view name, const std::string& where);

// Bytes of a row of `cols` weights; cols must be whole blocks for the quantised types.
int64_t source_row_bytes(SourceType type, int64_t cols);

// One block's integers and header. Codes are biased as in P16: q4_0 by 8, q4_1 not, q8_0 by 128.
struct SourceGroup {
  uint8_t codes[kSourceBlock];
  float scale, offset;
};
SourceGroup read_group(SourceType type, const uint8_t* row, int64_t block);

// out[0:cols] = the row as floats, exactly as the format defines them.
void decode_row(SourceType type, const uint8_t* row, int64_t cols, float* out);

}  // namespace jiffy
