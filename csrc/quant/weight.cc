#include "quant/weight.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <system_error>

#include "base/dtype.h"
#include "base/error.h"
#include "quant/quantize.h"

namespace jiffy {
namespace {

constexpr int64_t kMaxSize = INT32_MAX;

std::string describe(int64_t rows, int64_t cols) {
  return "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]";
}

void check_size(const std::string& name, int64_t rows, int64_t cols) {
  if (rows < 1 || cols < 1 || rows > kMaxSize || cols > kMaxSize) {
    fail(ErrorKind::kParameter, name, "a matrix of 1 to 2^31 - 1 rows and cols", describe(rows, cols));
  }
}

std::shared_ptr<uint8_t> take(Arena* arena, int64_t bytes, const std::string& name) {
  if (arena != nullptr) return arena->take(static_cast<size_t>(bytes), name);
  const auto own = std::make_shared<Buffer>(Buffer::allocate(static_cast<size_t>(bytes), name));
  return {own, own->as<uint8_t>()};
}

// Writes the codes of one group of one row into its lane of the slab.
void place_codes(const uint8_t* codes, const WeightFormat& f, uint8_t* lines, int lane) {
  for (int64_t col = 0; col < f.group; col += cols_per_line(f), lines += kLineBytes) {
    uint32_t low, high = 0;
    std::memcpy(&low, codes + col, 4);
    if (f.bits == 4) std::memcpy(&high, codes + col + 4, 4);
    const uint32_t word = low | high << 4;
    std::memcpy(lines + lane * 4, &word, 4);
  }
}

void place_value(uint8_t* line, ScaleType type, int lane, float value) {
  if (type == ScaleType::kF32) {
    std::memcpy(line + lane * 4, &value, 4);
  } else {
    const uint16_t half = f32_to_f16(value);
    std::memcpy(line + lane * 2, &half, 2);
  }
}

void place_header(const GroupHeader& header, const WeightFormat& f, uint8_t* slab, int64_t group, int lane) {
  uint8_t* line = slab + header_offset(f, group);
  const int64_t set_bytes = f.scale == ScaleType::kF16 ? kLineBytes / 2 : kLineBytes;
  if (paired_header(f)) line += group % 2 * set_bytes;
  place_value(line, f.scale, lane, header.scale);
  if (f.offset != Offset::kNone) place_value(line + set_bytes, f.scale, lane, header.offset);
}

// Infinity or NaN if there is one: as integers, magnitudes of floats are in the same order, and NaN comes last.
float largest_magnitude(const float* x, int64_t n) {
  int32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t magnitude = std::bit_cast<int32_t>(x[i]) & 0x7fffffff;
    largest = magnitude > largest ? magnitude : largest;
  }
  return std::bit_cast<float>(largest);
}

// What the weights of a file must stay below in this format. From half a step above the largest bf16, 0x1.fep127, a
// float rounds to infinity. The scales of integers are multiplied by up to 2^20 in their exponents, which must hold
// that.
float limit(const WeightFormat& f) {
  if (f.quantized()) return 0x1p100f;
  return f.bits == 16 ? 0x1.ffp127f : std::numeric_limits<float>::infinity();
}

constexpr char kNotFinite[] = "NaN or infinity", kTooLarge[] = "2^100 or more";

struct RefusedRow {
  int64_t row = -1;
  const char* found = nullptr;  // what is wrong with it
};

// Packs one row after another; `floats` holds a decoded row.
class RowPacker {
 public:
  RowPacker(const PackedMatrix& matrix, SourceType type)
      : matrix_(matrix),
        type_(type),
        floats_(static_cast<size_t>(matrix.cols)),
        codes_(static_cast<size_t>(matrix.format.group)) {}

  // What is wrong with a row that the matrix's format can't hold; nullptr: nothing.
  const char* pack(int64_t row, const uint8_t* source) {
    uint8_t* slab = const_cast<uint8_t*>(matrix_.slab(row / kSlabRows));
    const int lane = static_cast<int>(row % kSlabRows);
    if (natural_format(type_) == matrix_.format && is_quantized(type_)) return take_over(source, slab, lane);
    decode_row(type_, source, matrix_.cols, floats_.data());
    const float largest = largest_magnitude(floats_.data(), matrix_.cols);
    const WeightFormat& f = matrix_.format;
    if (!(largest < limit(f))) return what_is_wrong(largest);
    largest_ = std::fmax(largest_, largest);
    if (f.bits == 32) place_f32(slab, lane);
    if (f.bits == 16) place_bf16(slab, lane);
    for (int64_t g = 0; f.quantized() && g * f.group < matrix_.cols; ++g) {
      const int64_t n = std::min<int64_t>(f.group, matrix_.cols - g * f.group);
      place(quantize_group(floats_.data() + g * f.group, n, f, codes_.data()), codes_.data(), slab, g, lane);
    }
    return nullptr;
  }

  float largest() const { return largest_; }

 private:
  void place_f32(uint8_t* slab, int lane) {
    float* column = reinterpret_cast<float*>(slab) + lane;
    for (int64_t k = 0; k < matrix_.cols; ++k) column[k * kSlabRows] = floats_[static_cast<size_t>(k)];
  }

  // What was bf16 in the file comes back bit for bit: rounding changes none of its numbers.
  void place_bf16(uint8_t* slab, int lane) {
    const auto bf16_at = [&](int64_t k) -> uint32_t {
      return k < matrix_.cols ? f32_to_bf16(floats_[static_cast<size_t>(k)]) : 0;
    };
    for (int64_t k = 0; k < matrix_.cols; k += 2) {
      const uint32_t pair = bf16_at(k) | bf16_at(k + 1) << 16;
      std::memcpy(slab + k / 2 * kLineBytes + lane * 4, &pair, 4);
    }
  }

  const char* what_is_wrong(float largest) const {
    if (matrix_.format.bits == 16) return "NaN or infinity as bf16";
    return std::isfinite(largest) ? kTooLarge : kNotFinite;
  }

  const char* take_over(const uint8_t* source, uint8_t* slab, int lane) {
    for (int64_t g = 0; g < matrix_.cols / kSourceBlock; ++g) {
      const SourceGroup group = read_group(type_, source, g);
      if (!std::isfinite(group.scale) || !std::isfinite(group.offset)) return kNotFinite;
      place({group.scale, group.offset}, group.codes, slab, g, lane);
    }
    return nullptr;
  }

  void place(const GroupHeader& header, const uint8_t* codes, uint8_t* slab, int64_t g, int lane) {
    place_header(header, matrix_.format, slab, g, lane);
    place_codes(codes, matrix_.format, slab + codes_offset(matrix_.format, g), lane);
  }

  const PackedMatrix matrix_;
  const SourceType type_;
  std::vector<float> floats_;
  std::vector<uint8_t> codes_;
  float largest_ = 0.0f;
};

}  // namespace

WeightFormat natural_format(SourceType type) {
  switch (type) {
    case SourceType::kQ4_0:
      return {.bits = 4, .group = 32};
    case SourceType::kQ4_1:
      return {.bits = 4, .group = 32, .offset = Offset::kMin};
    case SourceType::kQ8_0:
      return {.bits = 8, .group = 32};
    case SourceType::kBF16:
      return {.bits = 16, .group = 2};
    default:
      return {};
  }
}

std::shared_ptr<Weight> Weight::create(const std::string& name, int64_t rows, int64_t cols, const WeightFormat& format,
                                       Arena* arena) {
  check_size(name, rows, cols);
  const int64_t stride = slab_bytes(format, cols);
  const auto memory = take(arena, n_slabs(rows) * stride, name);
  const PackedMatrix matrix{memory.get(), stride, rows, cols, format};
  return std::shared_ptr<Weight>(new Weight(name, memory, matrix));
}

std::pair<std::shared_ptr<Weight>, std::shared_ptr<Weight>> Weight::create_pair(const std::string& first,
                                                                                const std::string& second, int64_t rows,
                                                                                int64_t cols,
                                                                                const WeightFormat& format,
                                                                                Arena* arena) {
  check_size(first, rows, cols);
  const int64_t stride = slab_bytes(format, cols);
  const auto memory = take(arena, 2 * n_slabs(rows) * stride, first);
  const PackedMatrix even{memory.get(), 2 * stride, rows, cols, format};
  const PackedMatrix odd{memory.get() + stride, 2 * stride, rows, cols, format};
  return {std::shared_ptr<Weight>(new Weight(first, memory, even)),
          std::shared_ptr<Weight>(new Weight(second, memory, odd))};
}

std::shared_ptr<Weight> Weight::view(const std::string& name, const PackedMatrix& matrix,
                                     std::shared_ptr<const void> owner) {
  return std::shared_ptr<Weight>(new Weight(name, std::move(owner), matrix));
}

void Weight::pack_rows(int64_t begin, int64_t n_rows, const uint8_t* source, SourceType type, ThreadPool& pool) {
  const int64_t row_bytes = source_row_bytes(type, matrix_.cols);
  pack(begin, n_rows, type, pool, [&](int, int64_t row, int64_t) { return source + row * row_bytes; });
}

void Weight::pack_file(int64_t begin, int64_t n_rows, const File& file, int64_t offset, SourceType type,
                       ThreadPool& pool) {
  const int64_t row_bytes = source_row_bytes(type, matrix_.cols), lane_bytes = kSlabRows * row_bytes;
  Buffer scratch = Buffer::allocate(static_cast<size_t>(pool.size() * lane_bytes), name_);
  std::atomic<int> error{0};
  const bool whole = pack(begin, n_rows, type, pool, [&](int lane, int64_t row, int64_t n) -> const uint8_t* {
    uint8_t* to = scratch.as<uint8_t>() + lane * lane_bytes;
    const int failed = file.read(to, static_cast<size_t>(n * row_bytes), offset + row * row_bytes);
    if (failed != 0) error = failed;
    return failed == 0 ? to : nullptr;
  });
  if (!whole) {
    const std::string expected = std::to_string(n_rows * row_bytes) + " bytes at " + std::to_string(offset);
    fail(ErrorKind::kFormat, name_, expected, std::generic_category().message(error));
  }
}

bool Weight::pack(int64_t begin, int64_t n_rows, SourceType type, ThreadPool& pool, const Rows& rows) {
  if (begin < 0 || begin % kSlabRows != 0 || n_rows < 0 || begin > matrix_.rows - n_rows) {
    fail(ErrorKind::kParameter, name_, "rows within " + describe(matrix_.rows, matrix_.cols) + " from a multiple of 16",
         std::to_string(n_rows) + " rows from " + std::to_string(begin));
  }
  if (is_quantized(type) && matrix_.cols % kSourceBlock != 0) {
    fail(ErrorKind::kFormat, name_, "rows of whole blocks of 32", std::to_string(matrix_.cols) + " cols");
  }
  const int64_t row_bytes = source_row_bytes(type, matrix_.cols);
  std::vector<float> largest(static_cast<size_t>(pool.size()), 0.0f);
  std::vector<RefusedRow> refused(largest.size());  // by lane
  std::atomic<bool> whole{true};
  pool.run([&](Lane& lane) {
    RowPacker packer(matrix_, type);
    for (int64_t row; (row = lane.next_chunk() * kSlabRows) < n_rows && whole;) {
      const int64_t n = std::min<int64_t>(kSlabRows, n_rows - row);
      const uint8_t* source = rows(lane.id(), row, n);
      if (source == nullptr) whole = false;
      for (int64_t r = 0; source != nullptr && r < n; ++r) {
        const char* const found = packer.pack(begin + row + r, source + r * row_bytes);
        if (found != nullptr) refused[static_cast<size_t>(lane.id())] = {begin + row + r, found};
      }
    }
    largest[static_cast<size_t>(lane.id())] = packer.largest();
  });
  for (const RefusedRow& bad : refused) {
    if (bad.found == nullptr) continue;
    const char* const expected = bad.found == kTooLarge ? "weights below 2^100" : "finite weights";
    fail(ErrorKind::kFormat, name_, expected, std::string(bad.found) + " in row " + std::to_string(bad.row));
  }
  for (const float x : largest) largest_ = std::fmax(largest_, x);
  return whole;
}

bool Weight::fits_f16_headers() const {
  constexpr float kLargest = 65504.0f, kSmallestNormal = 0x1p-14f;
  const WeightFormat& f = matrix_.format;
  if (!f.quantized() || largest_ == 0.0f) return true;
  const float scale = largest_ / (f.bits == 4 ? 8.0f : 127.0f);
  return scale >= kSmallestNormal && (f.offset == Offset::kNone ? scale : largest_) <= kLargest;
}

}  // namespace jiffy
