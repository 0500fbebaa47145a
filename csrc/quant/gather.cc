#include "quant/gather.h"

#include <algorithm>
#include <cstring>

namespace jiffy {
namespace {

// A slab is made of sets: 16 elements of one size, of lane 0 to 15. Where a set begins in a slab, at byte `at`, is the
// element of a row at byte at / 16 of all elements of that row. body(element, at, n): n sets of such elements.
template <class Body>
void each_stretch(const WeightFormat& f, int64_t cols, Body&& body) {
  if (!f.quantized()) return body(uint32_t{}, 0, slab_bytes(f, cols) / kLineBytes);
  for (int64_t g = 0; g < n_groups(f, cols); ++g) {
    const bool has_header = !paired_header(f) || g % 2 == 0;
    if (has_header && f.scale == ScaleType::kF16) body(uint16_t{}, header_offset(f, g), 2 * header_lines(f));
    if (has_header && f.scale == ScaleType::kF32) body(uint32_t{}, header_offset(f, g), header_lines(f));
    body(uint32_t{}, codes_offset(f, g), lines_per_group(f));
  }
}

void copy_from_lane(const uint8_t* slab, int64_t lane, const WeightFormat& f, int64_t cols, uint8_t* row) {
  each_stretch(f, cols, [=](auto element, int64_t at, int64_t n) {
    constexpr auto kSize = static_cast<int64_t>(sizeof(element));
    for (int64_t i = 0; i < n; ++i) {
      std::memcpy(row + at / kSlabRows + i * kSize, slab + at + (i * kSlabRows + lane) * kSize, sizeof(element));
    }
  });
}

}  // namespace

RowsOfMatrix::RowsOfMatrix(const PackedMatrix& matrix, ThreadPool& pool)
    : n_rows_(matrix.rows),
      cols_(matrix.cols),
      format_(matrix.format),
      memory_(Buffer::allocate(static_cast<size_t>(n_rows_ * row_bytes()), "the rows of a shortlist's matrix")) {
  uint8_t* const memory = memory_.as<uint8_t>();
  pool.run([&](Lane& lane) {
    for (int64_t slab; (slab = lane.next_chunk()) < n_slabs(n_rows_);) {
      for (int64_t i = slab * kSlabRows; i < std::min(n_rows_, (slab + 1) * kSlabRows); ++i) {
        copy_from_lane(matrix.slab(slab), i % kSlabRows, format_, cols_, memory + i * row_bytes());
      }
    }
  });
}

void RowsOfMatrix::gather_slab(const int32_t* rows, int64_t n_rows, int64_t slab, uint8_t* to) const {
  const int64_t first = slab * kSlabRows, n = std::min<int64_t>(kSlabRows, n_rows - first);
  const uint8_t* from[kSlabRows];
  for (int64_t lane = 0; lane < kSlabRows; ++lane) from[lane] = row(rows[first + std::min(lane, n - 1)]);
  each_stretch(format_, cols_, [&](auto element, int64_t at, int64_t sets) {
    constexpr auto kSize = static_cast<int64_t>(sizeof(element));
    for (int64_t i = 0; i < sets; ++i) {
      uint8_t* const set = to + at + i * kSlabRows * kSize;
      for (int64_t lane = 0; lane < kSlabRows; ++lane) {
        std::memcpy(set + lane * kSize, from[lane] + at / kSlabRows + i * kSize, sizeof(element));
      }
      if (n < kSlabRows) std::memset(set + n * kSize, 0, static_cast<size_t>((kSlabRows - n) * kSize));
    }
  });
}

}  // namespace jiffy
