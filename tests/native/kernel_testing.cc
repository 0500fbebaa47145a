#include "kernel_testing.h"

namespace jiffy::check {

std::vector<WeightFormat> all_formats() {
  std::vector<WeightFormat> formats{{}, {.bits = 16, .group = 2}};
  for (const int bits : {4, 8}) {
    for (const int group : {32, 64, 128}) {
      for (const Offset offset : {Offset::kNone, Offset::kMin, Offset::kZero}) {
        for (const ScaleType scale : {ScaleType::kF16, ScaleType::kF32})
          formats.push_back({bits, group, offset, scale});
      }
    }
  }
  return formats;
}

std::shared_ptr<Weight> random_weight(int64_t rows, int64_t cols, const WeightFormat& format, ThreadPool& pool) {
  WeightFormat packed = format;
  if (format.offset == Offset::kZero) packed.offset = Offset::kMin;
  const std::vector<float> w = normal(static_cast<size_t>(rows * cols), 7, 0.1f);
  const std::vector<uint8_t> bytes = reference_pack(w.data(), rows, cols, packed);
  auto weight = Weight::create("w", rows, cols, format);
  if (format.offset != Offset::kZero) {
    weight->pack_rows(0, rows, reinterpret_cast<const uint8_t*>(w.data()), SourceType::kF32, pool);
    CHECK(std::memcmp(weight->matrix().data, bytes.data(), bytes.size()) ==
          0);  // the native packer is the oracle's equal
    return weight;
  }
  uint8_t* data = const_cast<uint8_t*>(weight->matrix().data);
  std::memcpy(data, bytes.data(), bytes.size());
  for (int64_t slab = 0; slab < n_slabs(rows); ++slab) {
    for (int64_t g = 0; g < n_groups(format, cols); ++g) {
      uint8_t* line = data + slab * weight->matrix().slab_stride + header_offset(format, g);
      for (int lane = 0; lane < kSlabRows; ++lane) {
        const float zero = static_cast<float>((g * 5 + lane) % 16);
        const uint16_t half = f32_to_f16(zero);
        if (format.scale == ScaleType::kF16) {
          std::memcpy(line + 32 + lane * 2, &half, 2);
        } else {
          std::memcpy(line + 64 + lane * 4, &zero, 4);
        }
      }
    }
  }
  return weight;
}

}  // namespace jiffy::check
