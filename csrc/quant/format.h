// The weight formats and the geometry of their packed layout, P16.
//
// A matrix [rows, cols] is cut into slabs of 16 output rows. A slab is one sequential stream of 64-byte lines, group
// after group along cols, so that outputs sit in lanes and cols run in time: no kernel ever adds across lanes.
//
//   slab (i4, symmetric, f16 scales)   header | codes of group 0 | codes of group 1 | header | codes of group 2 | ...
//   line of 4-bit codes   16 x 4 bytes: byte b of lane r = code[r][col + b], and in its high nibble code[r][col + 4 +
//   b] line of 8-bit codes   16 x 4 bytes: byte b of lane r = code[r][col + b] line of bf16          16 x 2 bf16: half
//   h of lane r = weight[r][col + h]; no headers line of f32           16 f32: lane r = weight[r][col]; no headers
//
//   header lines          f16 scales              f32 scales
//   symmetric             one per two groups      one per group              16 scales (of each group)
//   asymmetric            one per group           two per group              16 scales, then 16 offsets
//
// Codes are unsigned (the unsigned operand of vpdpbusd): 4-bit codes are biased by 8, 8-bit codes by 128.
//   symmetric            weight = scale * (code - bias)
//   offset "min", 4 bit  weight = scale * code + offset                     (GGUF Q4_1)
//   offset "min", 8 bit  weight = scale * (code - 128) + offset
//   offset "zero", 4 bit weight = scale * (code - offset), offset an integer 0..15   (GPTQ, AWQ)
//   offset "zero", 8 bit weight = scale * (code - 128 - offset)
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace jiffy {

inline constexpr int kSlabRows = 16;
inline constexpr int kLineBytes = 64;
inline constexpr int kUnit = 32;  // cols that kernels consume at once; every group is a whole number of units

enum class Offset : uint8_t { kNone, kMin, kZero };
enum class ScaleType : uint8_t { kF16, kF32 };

struct WeightFormat {
  int bits = 32;  // 4, 8, 16 (bf16) or 32 (f32)
  int group = 1;  // cols that padding keeps whole: those that share a scale (32, 64, 128), a pair of bf16, one f32
  Offset offset = Offset::kNone;
  ScaleType scale = ScaleType::kF16;

  constexpr bool quantized() const { return bits < 16; }
  constexpr bool operator==(const WeightFormat&) const = default;
  std::string name() const;  // "i4g64a"
};

// Parses "f32", "bf16", "i8", "i8g32", "i4", "i4g64", "i4g128" or an integer one with the suffix "a" (asymmetric,
// offset "min"). Throws Error kParameter naming `where` and listing the formats.
WeightFormat parse_format(std::string_view name, const std::string& where);
const std::vector<std::string>& format_names();

// What a code must lose to be the signed integer that the scale multiplies; an i4 "min" or "zero" code is used as it
// is.
constexpr int code_bias(const WeightFormat& f) {
  if (f.bits == 8) return 128;
  return f.offset == Offset::kNone ? 8 : 0;
}

constexpr int cols_per_line(const WeightFormat& f) { return kLineBytes * 8 / (kSlabRows * f.bits); }
constexpr int lines_per_group(const WeightFormat& f) { return f.group / cols_per_line(f); }
constexpr int64_t n_groups(const WeightFormat& f, int64_t cols) { return (cols + f.group - 1) / f.group; }
constexpr int64_t padded_cols(const WeightFormat& f, int64_t cols) { return n_groups(f, cols) * f.group; }
constexpr int64_t n_slabs(int64_t rows) { return (rows + kSlabRows - 1) / kSlabRows; }

constexpr bool paired_header(const WeightFormat& f) { return f.offset == Offset::kNone && f.scale == ScaleType::kF16; }
constexpr int header_lines(const WeightFormat& f) {  // in front of a group, or of a pair of groups
  return (f.offset != Offset::kNone && f.scale == ScaleType::kF32) ? 2 : 1;
}

// Byte offset, from the start of a slab, of the header that serves `group`.
constexpr int64_t header_offset(const WeightFormat& f, int64_t group) {
  const int64_t headers_before = paired_header(f) ? group / 2 : group;
  const int64_t groups_before = paired_header(f) ? group / 2 * 2 : group;
  return (headers_before * header_lines(f) + groups_before * lines_per_group(f)) * kLineBytes;
}
// Byte offset of the first code line of `group`.
constexpr int64_t codes_offset(const WeightFormat& f, int64_t group) {
  const int64_t headers = paired_header(f) ? group / 2 + 1 : group + 1;
  return (headers * header_lines(f) + group * lines_per_group(f)) * kLineBytes;
}
constexpr int64_t slab_bytes(const WeightFormat& f, int64_t cols) {
  const int64_t groups = n_groups(f, cols);
  const int64_t headers = !f.quantized() ? 0 : paired_header(f) ? (groups + 1) / 2 : groups;
  return (headers * header_lines(f) + groups * lines_per_group(f)) * kLineBytes;
}

constexpr double bits_per_weight(const WeightFormat& f) {
  const int64_t cols = 2 * f.group;
  return 8.0 * static_cast<double>(slab_bytes(f, cols)) / static_cast<double>(kSlabRows * cols);
}
static_assert(bits_per_weight({.bits = 4, .group = 32}) == 4.5);
static_assert(bits_per_weight({.bits = 4, .group = 64}) == 4.25);
static_assert(bits_per_weight({.bits = 4, .group = 128}) == 4.125);
static_assert(bits_per_weight({.bits = 8, .group = 32}) == 8.5);
static_assert(bits_per_weight({.bits = 8, .group = 128}) == 8.125);
static_assert(bits_per_weight({.bits = 4, .group = 32, .offset = Offset::kMin}) == 5.0);
static_assert(bits_per_weight({.bits = 4, .group = 64, .offset = Offset::kMin}) == 4.5);
static_assert(bits_per_weight({.bits = 4, .group = 32, .scale = ScaleType::kF32}) == 5.0);
static_assert(bits_per_weight({.bits = 4, .group = 32, .offset = Offset::kZero, .scale = ScaleType::kF32}) == 6.0);
static_assert(bits_per_weight({.bits = 16, .group = 2}) == 16.0);
static_assert(bits_per_weight({}) == 32.0);

// A packed matrix, by reference. Two matrices may lie interleaved in one buffer (slab_stride > slab_bytes).
struct PackedMatrix {
  const uint8_t* data = nullptr;
  int64_t slab_stride = 0;  // bytes from one slab to the next
  int64_t rows = 0;         // outputs
  int64_t cols = 0;         // inputs
  WeightFormat format;

  const uint8_t* slab(int64_t i) const { return data + i * slab_stride; }
};

}  // namespace jiffy
