#include "quant/reference.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/dtype.h"

namespace jiffy {
namespace {

// Where things are in a slab, counted line by line from its start.
struct Place {
  int64_t header_line, header_index;  // the header_index-th set of 16 scales (or offsets) from that line on
  int64_t first_code_line;
};

Place find_group(const WeightFormat& f, int64_t group) {
  int64_t line = 0;
  Place place{};
  for (int64_t g = 0; g <= group; ++g) {
    if (paired_header(f)) {
      if (g % 2 == 0) {
        place.header_line = line;
        line += 1;
      }
      place.header_index = g % 2;
    } else {
      place.header_line = line;
      place.header_index = 0;
      line += header_lines(f);
    }
    place.first_code_line = line;
    line += f.group * f.bits * kSlabRows / (8 * kLineBytes);
  }
  return place;
}

int64_t header_byte(const WeightFormat& f, const Place& place, int64_t set, int64_t lane) {
  const int64_t size = f.scale == ScaleType::kF16 ? 2 : 4;
  return place.header_line * kLineBytes + ((place.header_index + set) * kSlabRows + lane) * size;
}

double get_header(const uint8_t* slab, const WeightFormat& f, int64_t byte) {
  if (f.scale == ScaleType::kF16) {
    uint16_t half;
    std::memcpy(&half, slab + byte, 2);
    return f16_to_f32(half);
  }
  float value;
  std::memcpy(&value, slab + byte, 4);
  return value;
}

void put_header(uint8_t* slab, const WeightFormat& f, int64_t byte, float value) {
  const uint16_t half = f32_to_f16(value);
  if (f.scale == ScaleType::kF16) {
    std::memcpy(slab + byte, &half, 2);
  } else {
    std::memcpy(slab + byte, &value, 4);
  }
}

int64_t code_byte(const WeightFormat& f, const Place& place, int64_t col, int64_t lane) {
  const int64_t per_line = f.bits == 4 ? 8 : 4;
  return (place.first_code_line + col / per_line) * kLineBytes + lane * 4 + col % 4;
}

int64_t bf16_byte(int64_t col, int64_t lane) { return col / 2 * kLineBytes + lane * 4 + col % 2 * 2; }

// The bf16 nearest to x, which has 8 significant bits, or those above 2^-133; ties to even.
uint16_t nearest_bf16(float x) {
  const double unit = std::ldexp(1.0, std::max(std::ilogb(x), -126) - 7);
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(std::nearbyint(x / unit) * unit)) >> 16);
}

void pack_floats(const float* x, int64_t cols, const WeightFormat& f, uint8_t* slab, int64_t lane) {
  for (int64_t c = 0; c < cols; ++c) {
    if (f.bits == 32) {
      std::memcpy(slab + (c * kSlabRows + lane) * 4, x + c, 4);
    } else {
      const uint16_t bf16 = nearest_bf16(x[c]);
      std::memcpy(slab + bf16_byte(c, lane), &bf16, 2);
    }
  }
}

float rounded(float x, const WeightFormat& f) { return f.scale == ScaleType::kF16 ? f16_to_f32(f32_to_f16(x)) : x; }

struct Quantiser {
  float scale, offset;
  int bias, least, most;

  int code(float x) const {
    const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    const float exact =
        std::clamp((x - offset) * inverse, static_cast<float>(least - bias), static_cast<float>(most - bias));
    return static_cast<int>(std::nearbyint(exact)) + bias;
  }
};

Quantiser choose(const float* x, int64_t n, const WeightFormat& f) {
  const float low = *std::min_element(x, x + n), high = *std::max_element(x, x + n);
  const float extreme = std::fabs(low) > std::fabs(high) ? low : high;
  const int most = f.bits == 4 ? 15 : 255;
  if (f.offset == Offset::kNone && f.bits == 4) return {rounded(extreme / -8.0f, f), 0.0f, 8, 0, most};
  if (f.offset == Offset::kNone) return {rounded(std::fabs(extreme) / 127.0f, f), 0.0f, 128, 1, most};
  const float steps = static_cast<float>(most);
  const float scale = rounded(high / steps - low / steps, f);
  if (f.bits == 4) return {scale, rounded(low, f), 0, 0, most};
  return {scale, rounded(low + 128.0f * scale, f), 128, 0, most};
}

void pack_group(const float* x, int64_t n, const WeightFormat& f, int64_t group, uint8_t* slab, int64_t lane) {
  const Place place = find_group(f, group);
  const Quantiser quantiser = choose(x, n, f);
  put_header(slab, f, header_byte(f, place, 0, lane), quantiser.scale);
  if (f.offset != Offset::kNone) put_header(slab, f, header_byte(f, place, 1, lane), quantiser.offset);
  for (int64_t col = 0; col < f.group; ++col) {
    const int code = col < n ? quantiser.code(x[col]) : quantiser.bias;
    const int shift = f.bits == 4 && col % 8 >= 4 ? 4 : 0;
    slab[code_byte(f, place, col, lane)] |= static_cast<uint8_t>(code << shift);
  }
}

}  // namespace

double reference_weight(const PackedMatrix& m, int64_t row, int64_t col) {
  const uint8_t* slab = m.slab(row / kSlabRows);
  const int64_t lane = row % kSlabRows;
  const WeightFormat& f = m.format;
  if (f.bits == 16) {
    uint16_t value;
    std::memcpy(&value, slab + bf16_byte(col, lane), 2);
    return bf16_to_f32(value);
  }
  if (f.bits == 32) {
    float value;
    std::memcpy(&value, slab + (col * kSlabRows + lane) * 4, 4);
    return value;
  }
  const Place place = find_group(f, col / f.group);
  const double scale = get_header(slab, f, header_byte(f, place, 0, lane));
  const double offset = f.offset == Offset::kNone ? 0.0 : get_header(slab, f, header_byte(f, place, 1, lane));
  int code = slab[code_byte(f, place, col % f.group, lane)];
  if (f.bits == 4) code = col % 8 < 4 ? code & 15 : code >> 4;
  if (f.bits == 8) code -= 128;
  if (f.offset == Offset::kMin) return scale * code + offset;
  if (f.offset == Offset::kZero) return scale * (code - offset);
  return scale * (f.bits == 4 ? code - 8 : code);
}

std::vector<float> reference_unpack(const PackedMatrix& m) {
  std::vector<float> out;
  out.reserve(static_cast<size_t>(m.rows * m.cols));
  for (int64_t r = 0; r < m.rows; ++r) {
    for (int64_t c = 0; c < m.cols; ++c) out.push_back(static_cast<float>(reference_weight(m, r, c)));
  }
  return out;
}

float reference_activation(const ActivationView& x, int64_t row, int64_t col) {
  const RowTile tile = x.tiles().of(row);
  const int64_t r = row - tile.first;
  const int8_t* value = x.place(tile, r, col * x.bits / 8);
  if (x.bits == 16) {
    uint16_t bits;
    std::memcpy(&bits, value, 2);
    return bf16_to_f32(bits);
  }
  const int64_t at = tile.first * x.groups() + col / x.group * tile.rows + r;
  const float scale = x.has_row_scale() ? std::ldexp(x.row_scale[row], x.exponent[at] >> 23) : x.scale[at];
  return scale * static_cast<float>(*value);
}

std::vector<uint8_t> reference_pack(const float* x, int64_t rows, int64_t cols, const WeightFormat& f) {
  const int64_t stride = slab_bytes(f, cols);
  std::vector<uint8_t> out(static_cast<size_t>(n_slabs(rows) * stride));
  for (int64_t r = 0; r < rows; ++r) {
    uint8_t* slab = out.data() + r / kSlabRows * stride;
    const int64_t lane = r % kSlabRows;
    if (!f.quantized()) pack_floats(x + r * cols, cols, f, slab, lane);
    for (int64_t g = 0; f.quantized() && g * f.group < cols; ++g) {
      pack_group(x + r * cols + g * f.group, std::min<int64_t>(f.group, cols - g * f.group), f, g, slab, lane);
    }
  }
  return out;
}

}  // namespace jiffy
