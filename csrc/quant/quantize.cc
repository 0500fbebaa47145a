#include "quant/quantize.h"

#include <bit>
#include <cmath>

#include "base/dtype.h"

namespace jiffy {
namespace {

float header_rounded(float x, ScaleType type) { return type == ScaleType::kF16 ? f16_to_f32(f32_to_f16(x)) : x; }

// The scale and offset before and after rounding; 16 chains so that the compiler keeps them in lanes.
GroupHeader choose_header(const float* x, int64_t n, const WeightFormat& f) {
  float lows[16], highs[16];
  for (int i = 0; i < 16; ++i) lows[i] = highs[i] = x[0];
  const int64_t whole = n / 16 * 16;
  for (int64_t i = 0; i < whole; i += 16) {
    for (int j = 0; j < 16; ++j) {
      lows[j] = x[i + j] < lows[j] ? x[i + j] : lows[j];
      highs[j] = x[i + j] > highs[j] ? x[i + j] : highs[j];
    }
  }
  float low = x[0], high = x[0];
  for (int64_t i = whole; i < n; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  for (int j = 0; j < 16; ++j) {
    low = lows[j] < low ? lows[j] : low;
    high = highs[j] > high ? highs[j] : high;
  }
  if (f.offset == Offset::kNone) {
    const float extreme = std::fabs(low) > std::fabs(high) ? low : high;
    return {header_rounded(f.bits == 4 ? extreme / -8.0f : std::fabs(extreme) / 127.0f, f.scale), 0.0f};
  }
  const float scale = header_rounded(
      high / static_cast<float>((1 << f.bits) - 1) - low / static_cast<float>((1 << f.bits) - 1), f.scale);
  return {scale, header_rounded(f.bits == 4 ? low : low + 128.0f * scale, f.scale)};
}

}  // namespace

GroupHeader quantize_group(const float* x, int64_t n, const WeightFormat& f, uint8_t* codes) {
  const GroupHeader header = choose_header(x, n, f);
  const float inverse = header.scale != 0.0f ? 1.0f / header.scale : 0.0f, offset = header.offset;
  const auto code_of_zero = static_cast<uint32_t>(code_bias(f));  // by value: codes could lie over f, for all that a
  const int group = f.group;                                      // compiler knows, and the loop would stay scalar
  const float bias = static_cast<float>(code_of_zero);
  const float lowest = (f.bits == 8 && f.offset == Offset::kNone ? 1.0f : 0.0f) - bias;  // symmetric int8: -127..127
  const float highest = static_cast<float>((1 << f.bits) - 1) - bias;
  for (int64_t i = 0; i < n; ++i) {
    float code = (x[i] - offset) * inverse;
    code = code < lowest ? lowest : code;
    code = code > highest ? highest : code;
    // Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits: SSE2 has no rounding instruction.
    codes[i] = static_cast<uint8_t>(std::bit_cast<uint32_t>(code + 0x1.8p23f) + code_of_zero);
  }
  for (int64_t i = n; i < group; ++i) codes[i] = static_cast<uint8_t>(code_of_zero);
  return header;
}

}  // namespace jiffy
