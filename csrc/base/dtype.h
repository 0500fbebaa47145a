#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace jiffy {

enum class DType { kF32, kF16, kBF16, kI8, kI32 };

constexpr size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kI8:
      return 1;
  }
  return 0;
}

constexpr const char* name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kBF16:
      return "bf16";
    case DType::kI8:
      return "i8";
    case DType::kI32:
      return "i32";
  }
  return "";
}

// Conversions round to nearest even, whatever the thread's rounding mode; a NaN stays a quiet NaN with the payload that
// fits. f16 gives the bits of vcvtph2ps and vcvtps2ph; bf16 keeps subnormals, which vcvtneps2bf16 flushes. Always
// inlined: a kernel file, compiled once per instruction set, must leave no copy of them for the linker to choose from.

// value / 2^shift, ties to even. 1 <= shift <= 31; value + 2^shift must fit.
[[gnu::always_inline]] constexpr uint32_t shift_right_to_nearest(uint32_t value, uint32_t shift) {
  const uint32_t odd = (value >> shift) & 1;
  return (value + (uint32_t{1} << (shift - 1)) - 1 + odd) >> shift;
}

// A mask chooses the subnormal value: around a branch GCC leaves the float arithmetic, and with it the loop, scalar.
[[gnu::always_inline]] constexpr float f16_to_f32(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  const uint32_t top_exponent = magnitude >= 0x7c00 ? 112u << 23 : 0;  // infinity and NaN keep an exponent of ones
  const uint32_t quiet = magnitude > 0x7c00 ? 0x400000u : 0;
  const uint32_t normal = ((magnitude << 13) + (112u << 23) + top_exponent) | quiet;
  const uint32_t subnormal = std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  const uint32_t is_subnormal = -static_cast<uint32_t>(magnitude < 0x400);
  return std::bit_cast<float>(sign | (subnormal & is_subnormal) | (normal & ~is_subnormal));
}

[[gnu::always_inline]] constexpr uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
  if (magnitude < 0x38800000) {  // below 2^-14 a half counts units of 2^-24
    const uint32_t exponent = magnitude >> 23;
    const uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000;
    const uint32_t shift = exponent > 101 ? 126 - exponent : 25;  // 25 bits away nothing is left
    return static_cast<uint16_t>(sign | shift_right_to_nearest(mantissa, shift));
  }
  const uint32_t bounded = magnitude < 0x47800000 ? magnitude : 0x47800000;  // 2^16 and infinity alike give infinity
  return static_cast<uint16_t>(sign | shift_right_to_nearest(bounded - (112u << 23), 13));
}

[[gnu::always_inline]] constexpr float bf16_to_f32(uint16_t bf16) {
  return std::bit_cast<float>(static_cast<uint32_t>(bf16) << 16);
}

[[gnu::always_inline]] constexpr uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>(shift_right_to_nearest(bits, 16));
}

}  // namespace jiffy
