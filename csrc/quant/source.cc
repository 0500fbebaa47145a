#include "quant/source.h"

#include <cstring>

#include "base/dtype.h"
#include "base/error.h"

namespace jiffy {
namespace {

struct Named {
  const char* name;
  SourceType type;
  int block_bytes;  // of 32 weights
};
constexpr Named kNamed[] = {{"f32", SourceType::kF32, 128},  {"f16", SourceType::kF16, 64},
                            {"bf16", SourceType::kBF16, 64}, {"q4_0", SourceType::kQ4_0, 18},
                            {"q4_1", SourceType::kQ4_1, 20}, {"q8_0", SourceType::kQ8_0, 34}};

int block_bytes(SourceType type) { return kNamed[static_cast<int>(type)].block_bytes; }

uint16_t read_u16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}

}  // namespace

SourceType parse_source(std::string_view name, const std::string& where) {
  for (const Named& named : kNamed) {
    if (name == named.name) return named.type;
  }
  fail(ErrorKind::kUnsupported, where, "a tensor of type f32, f16, bf16, q4_0, q4_1 or q8_0", std::string(name));
}

int64_t source_row_bytes(SourceType type, int64_t cols) { return cols * block_bytes(type) / kSourceBlock; }

SourceGroup read_group(SourceType type, const uint8_t* row, int64_t block) {
  const uint8_t* p = row + block * block_bytes(type);
  SourceGroup group{.codes = {}, .scale = f16_to_f32(read_u16(p)), .offset = 0.0f};
  p += 2;
  if (type == SourceType::kQ8_0) {
    for (int i = 0; i < kSourceBlock; ++i) group.codes[i] = p[i] ^ 0x80;  // + 128
    return group;
  }
  if (type == SourceType::kQ4_1) {
    group.offset = f16_to_f32(read_u16(p));
    p += 2;
  }
  for (int i = 0; i < kSourceBlock / 2; ++i) {
    group.codes[i] = p[i] & 15;
    group.codes[i + kSourceBlock / 2] = p[i] >> 4;
  }
  return group;
}

void decode_row(SourceType type, const uint8_t* row, int64_t cols, float* out) {
  switch (type) {
    case SourceType::kF32:
      std::memcpy(out, row, static_cast<size_t>(cols) * 4);
      return;
    case SourceType::kF16:
      for (int64_t i = 0; i < cols; ++i) out[i] = f16_to_f32(read_u16(row + 2 * i));
      return;
    case SourceType::kBF16:
      for (int64_t i = 0; i < cols; ++i) out[i] = bf16_to_f32(read_u16(row + 2 * i));
      return;
    default:
      break;
  }
  const float bias = type == SourceType::kQ4_0 ? 8.0f : type == SourceType::kQ8_0 ? 128.0f : 0.0f;
  for (int64_t b = 0; b < cols / kSourceBlock; ++b) {
    const SourceGroup group = read_group(type, row, b);
    for (int i = 0; i < kSourceBlock; ++i) {
      out[b * kSourceBlock + i] = (static_cast<float>(group.codes[i]) - bias) * group.scale + group.offset;
    }
  }
}

}  // namespace jiffy
