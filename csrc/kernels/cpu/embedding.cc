// y[i,:] = scale * table[ids[i],:]    y: [rows, dim]  table: packed [vocab_size, dim]
#include "base/dtype.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {
namespace {

struct Header {
  float scale, offset;
};

float header_value(const uint8_t* line, ScaleType type, int lane) {
  float lanes[kLanes];
  store(lanes, type == ScaleType::kF16 ? load_f16(line) : load(reinterpret_cast<const float*>(line)));
  return lanes[lane];
}

Header read_header(const uint8_t* slab, const WeightFormat& f, int64_t group, int lane) {
  const uint8_t* line = slab + header_offset(f, group);
  const int64_t set_bytes = f.scale == ScaleType::kF16 ? kLineBytes / 2 : kLineBytes;  // 16 scales or 16 offsets
  if (paired_header(f)) return {header_value(line + group % 2 * set_bytes, f.scale, lane), 0.0f};
  if (f.offset == Offset::kNone) return {header_value(line, f.scale, lane), 0.0f};
  return {header_value(line, f.scale, lane), header_value(line + set_bytes, f.scale, lane)};
}

int code_at(const uint8_t* codes, int bits, int64_t col, int lane) {
  if (bits == 8) return codes[col / 4 * kLineBytes + lane * 4 + col % 4];
  const int byte = codes[col / 8 * kLineBytes + lane * 4 + col % 4];
  return col % 8 < 4 ? byte & 15 : byte >> 4;
}

void gather_quantized(const PackedMatrix& table, int64_t row, float* y) {
  const WeightFormat& f = table.format;
  const uint8_t* slab = table.data + row / kSlabRows * table.slab_stride;
  const int lane = static_cast<int>(row % kSlabRows);
  for (int64_t g = 0; g * f.group < table.cols; ++g) {
    const Header header = read_header(slab, f, g, lane);
    const float zero = static_cast<float>(code_bias(f)) + (f.offset == Offset::kZero ? header.offset : 0.0f);
    const float least = f.offset == Offset::kMin ? header.offset : 0.0f;
    const uint8_t* codes = slab + codes_offset(f, g);
    const int64_t end = smaller(table.cols, (g + 1) * f.group);
    for (int64_t col = g * f.group; col < end; ++col) {
      const float code = static_cast<float>(code_at(codes, f.bits, col - g * f.group, lane));
      y[col] = __builtin_fmaf(code - zero, header.scale, least);
    }
  }
}

void gather_bf16(const PackedMatrix& table, int64_t row, float* y) {
  const auto* slab = reinterpret_cast<const uint16_t*>(table.data + row / kSlabRows * table.slab_stride);
  for (int64_t col = 0; col < table.cols; ++col) {
    y[col] = bf16_to_f32(slab[(col / 2 * kSlabRows + row % kSlabRows) * 2 + col % 2]);
  }
}

void gather_f32(const PackedMatrix& table, int64_t row, float* y) {
  const float* slab = reinterpret_cast<const float*>(table.data + row / kSlabRows * table.slab_stride);
  for (int64_t col = 0; col < table.cols; ++col) y[col] = slab[col * kSlabRows + row % kSlabRows];
}

}  // namespace

void embedding(const EmbeddingArgs& a) {
  for (int64_t i = a.begin; i < a.end; ++i) {
    float* y = a.y + i * a.table.cols;
    switch (a.table.format.bits) {
      case 32:
        gather_f32(a.table, a.ids[i], y);
        break;
      case 16:
        gather_bf16(a.table, a.ids[i], y);
        break;
      default:
        gather_quantized(a.table, a.ids[i], y);
    }
    if (a.scale == 1.0f) continue;
    for (int64_t col = 0; col < a.table.cols; ++col) y[col] *= a.scale;
  }
}

}  // namespace jiffy::JIFFY_ISA
