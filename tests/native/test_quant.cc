// Formats, sources and packing against the slow oracle.
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/dtype.h"
#include "check.h"
#include "quant/reference.h"
#include "quant/weight.h"

namespace jiffy {
namespace {

TEST(format_names_parse_back) {
  for (const std::string& name : format_names()) CHECK_EQ(parse_format(name, "weights").name(), name);
  for (const char* bad : {"", "i5", "f32a", "bf16a", "f16", "i4g16", "I4", "i4aa"})
    CHECK_THROWS(ErrorKind::kParameter, parse_format(bad, "weights"));
}

TEST(headers_and_codes_never_overlap) {
  for (const std::string& name : format_names()) {
    WeightFormat format = parse_format(name, "weights");
    if (!format.quantized()) continue;
    for (const ScaleType scale : {ScaleType::kF16, ScaleType::kF32}) {
      format.scale = scale;
      for (int64_t cols = 1; cols < 700; cols += 37) {
        int64_t line = 0;  // walk the slab as a kernel does
        for (int64_t g = 0; g < n_groups(format, cols); ++g) {
          const bool header_here = !paired_header(format) || g % 2 == 0;
          if (header_here) {
            CHECK_EQ(header_offset(format, g), line * kLineBytes);
            line += header_lines(format);
          }
          CHECK_EQ(codes_offset(format, g), line * kLineBytes);
          line += lines_per_group(format);
        }
        CHECK_EQ(slab_bytes(format, cols), line * kLineBytes);
      }
    }
  }
}

TEST(rows_outside_of_a_matrix_are_refused) {
  ThreadPool pool(1);
  const std::vector<uint8_t> rows(48 * 4);
  const auto weight = Weight::create("w", 32, 1, {});
  const auto pack = [&](int64_t begin, int64_t n) { weight->pack_rows(begin, n, rows.data(), SourceType::kF32, pool); };
  pack(16, 16);
  for (const int64_t begin : {-16L, 8L, 32L, INT64_MAX / 16 * 16, INT64_MIN}) {
    CHECK_THROWS(ErrorKind::kParameter, pack(begin, 16));
  }
  CHECK_THROWS(ErrorKind::kParameter, pack(0, 48));
  CHECK_THROWS(ErrorKind::kParameter, pack(0, -1));
}

TEST(rows_of_any_bytes_are_finite_weights_or_an_error) {
  ThreadPool pool(2);
  std::mt19937 rng(5);
  int n_packed = 0, n_refused = 0;
  for (const std::string& name : format_names()) {
    for (const char* type_name : {"f32", "f16", "bf16", "q4_0", "q4_1", "q8_0"}) {
      const SourceType type = parse_source(type_name, "w");
      for (int i = 0; i < 24; ++i) {
        const int64_t n_rows = 1 + static_cast<int64_t>(rng() % 20), cols = 32 * (1 + static_cast<int64_t>(rng() % 5));
        std::vector<uint8_t> rows(static_cast<size_t>(n_rows * source_row_bytes(type, cols)));
        const uint32_t most = i % 2 == 0 ? 255 : 0x7a;  // without a set sign or a full exponent they are numbers
        for (uint8_t& byte : rows) byte = static_cast<uint8_t>(rng() % (most + 1));
        WeightFormat format = parse_format(name, "w");
        if (format.quantized() && i % 4 < 2) format.scale = ScaleType::kF32;
        const auto weight = Weight::create("w", n_rows, cols, format);
        try {
          weight->pack_rows(0, n_rows, rows.data(), type, pool);
        } catch (const Error& error) {
          CHECK(error.kind == ErrorKind::kFormat);
          ++n_refused;
          continue;
        }
        ++n_packed;
        if (format.scale == ScaleType::kF16 && !weight->fits_f16_headers()) continue;  // the loader packs those again
        for (const float value : reference_unpack(weight->matrix())) CHECK(std::isfinite(value));
      }
    }
  }
  CHECK(n_packed > 300 && n_refused > 300);
}

// A random block-quantised row, as bytes of a file.
std::vector<uint8_t> random_blocks(SourceType type, int64_t blocks, unsigned seed) {
  std::mt19937 rng(seed);
  std::vector<uint8_t> bytes(static_cast<size_t>(source_row_bytes(type, blocks * kSourceBlock)));
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(rng());
  const size_t block = bytes.size() / static_cast<size_t>(blocks);
  for (size_t i = 0; i < bytes.size(); i += block) {
    const uint16_t scale = f32_to_f16(std::ldexp(1.0f, -static_cast<int>(rng() % 12))), least = f32_to_f16(-0.3f);
    std::memcpy(bytes.data() + i, &scale, 2);
    if (type == SourceType::kQ4_1) std::memcpy(bytes.data() + i + 2, &least, 2);
  }
  return bytes;
}

TEST(block_sources_are_taken_over_without_loss) {
  ThreadPool pool(2);
  for (const SourceType type : {SourceType::kQ4_0, SourceType::kQ4_1, SourceType::kQ8_0}) {
    const int64_t rows = 37, cols = 96;
    const std::vector<uint8_t> bytes = random_blocks(type, rows * cols / kSourceBlock, 5);
    const auto weight = Weight::create("w", rows, cols, natural_format(type));
    weight->pack_rows(0, 32, bytes.data(), type, pool);
    weight->pack_rows(32, 5, bytes.data() + 32 * source_row_bytes(type, cols), type, pool);
    std::vector<float> row(static_cast<size_t>(cols));
    for (int64_t r = 0; r < rows; ++r) {
      decode_row(type, bytes.data() + r * source_row_bytes(type, cols), cols, row.data());
      for (int64_t c = 0; c < cols; ++c)
        CHECK_EQ(static_cast<float>(reference_weight(weight->matrix(), r, c)), row[static_cast<size_t>(c)]);
    }
  }
}

// Every finite bf16, in an odd number of cols.
TEST(bf16_sources_are_taken_over_bit_for_bit) {
  ThreadPool pool(2);
  std::vector<uint16_t> source;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    if ((bits & 0x7f80) != 0x7f80) source.push_back(static_cast<uint16_t>(bits));
  }
  const int64_t cols = 255, rows = static_cast<int64_t>(source.size()) / cols;
  const auto weight = Weight::create("w", rows, cols, natural_format(SourceType::kBF16));
  CHECK_EQ(weight->matrix().format.name(), std::string("bf16"));
  weight->pack_rows(0, rows, reinterpret_cast<const uint8_t*>(source.data()), SourceType::kBF16, pool);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      const float got = static_cast<float>(reference_weight(weight->matrix(), r, c));
      CHECK_EQ(std::bit_cast<uint32_t>(got), uint32_t{source[static_cast<size_t>(r * cols + c)]} << 16);
    }
  }
}

TEST(floats_are_packed_to_the_nearest_bf16) {
  ThreadPool pool(1);
  const WeightFormat bf16 = parse_format("bf16", "test");
  std::mt19937 rng(3);
  std::vector<float> x;
  while (x.size() < 64 * 101) {  // of every size, subnormal ones too; each third in the middle between two bf16
    const uint32_t bits = static_cast<uint32_t>(rng()) & (x.size() % 3 == 0 ? 0xffff8000 : 0xffffffff);
    const float value = std::bit_cast<float>(x.size() % 3 == 0 ? bits | 0x8000 : bits);
    if (std::fabs(value) < 0x1.ffp127f) x.push_back(value);
  }
  x[5] = 0x1.fefffep127f;  // the last that doesn't become infinite
  const auto weight = Weight::create("w", 64, 101, bf16);
  weight->pack_rows(0, 64, reinterpret_cast<const uint8_t*>(x.data()), SourceType::kF32, pool);
  const std::vector<uint8_t> expected = reference_pack(x.data(), 64, 101, bf16);
  CHECK(std::memcmp(weight->matrix().data, expected.data(), expected.size()) == 0);
  CHECK_EQ(static_cast<float>(reference_weight(weight->matrix(), 0, 5)), 0x1.fep127f);
}

// Whose scales would leave no room for the powers of two that they are multiplied with.
TEST(integer_weights_beyond_2_to_the_100_are_refused) {
  ThreadPool pool(1);
  std::vector<float> x(static_cast<size_t>(20 * 40), 1.0f);
  for (const float value : {0x1p99f, 0x1p100f}) {
    x[static_cast<size_t>(11 * 40 + 7)] = value;
    const auto weight = Weight::create("w", 20, 40, {.bits = 4, .group = 32, .scale = ScaleType::kF32});
    std::string expected, found;
    try {
      weight->pack_rows(0, 20, reinterpret_cast<const uint8_t*>(x.data()), SourceType::kF32, pool);
    } catch (const Error& e) {
      expected = e.expected, found = e.found;
    }
    CHECK_EQ(expected, std::string(value < 0x1p100f ? "" : "weights below 2^100"));
    CHECK_EQ(found, std::string(value < 0x1p100f ? "" : "2^100 or more in row 11"));
  }
}

TEST(weights_that_overflow_bf16_name_the_tensor_and_the_row) {
  ThreadPool pool(1);
  std::vector<float> x(static_cast<size_t>(20 * 40), 1.0f);
  x[static_cast<size_t>(17 * 40 + 3)] = -0x1.ffp127f;
  const auto* bytes = reinterpret_cast<const uint8_t*>(x.data());
  Weight::create("w", 20, 40, {})->pack_rows(0, 20, bytes, SourceType::kF32, pool);
  const auto weight = Weight::create("layers.0.w", 20, 40, {.bits = 16, .group = 2});
  try {
    weight->pack_rows(0, 20, bytes, SourceType::kF32, pool);
    CHECK(false);
  } catch (const Error& e) {
    CHECK(e.kind == ErrorKind::kFormat);
    CHECK_EQ(e.where, std::string("layers.0.w"));
    CHECK_EQ(e.found, std::string("NaN or infinity as bf16 in row 17"));
  }
}

TEST(packing_in_pieces_and_pairs_gives_the_same_bytes) {
  ThreadPool pool(3);
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  const int64_t rows = 45, cols = 130;
  std::vector<float> x(static_cast<size_t>(rows * cols));
  for (float& v : x) v = normal(rng);
  const auto* bytes = reinterpret_cast<const uint8_t*>(x.data());
  for (const std::string& name : format_names()) {
    const WeightFormat format = parse_format(name, "weights");
    const std::vector<uint8_t> expected = reference_pack(x.data(), rows, cols, format);
    const auto [first, second] = Weight::create_pair("a", "b", rows, cols, format);
    for (const auto& weight : {first, second}) {
      for (int64_t begin = 0; begin < rows; begin += 16) {
        weight->pack_rows(begin, std::min<int64_t>(16, rows - begin), bytes + begin * cols * 4, SourceType::kF32, pool);
      }
      for (int64_t slab = 0; slab < n_slabs(rows); ++slab) {
        const int64_t size = slab_bytes(format, cols);
        CHECK(std::memcmp(weight->matrix().slab(slab), expected.data() + slab * size, static_cast<size_t>(size)) == 0);
      }
    }
  }
}

TEST(quantised_weights_are_within_half_a_step) {
  ThreadPool pool(1);
  std::mt19937 rng(2);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(16 * 256));
  for (float& v : x) v = normal(rng);
  for (const std::string& name : format_names()) {
    const WeightFormat format = parse_format(name, "weights");
    const auto weight = Weight::create("w", 16, 256, format);
    weight->pack_rows(0, 16, reinterpret_cast<const uint8_t*>(x.data()), SourceType::kF32, pool);
    for (int64_t r = 0; r < 16; ++r) {
      for (int64_t c = 0; c < 256; ++c) {
        const int64_t group = c / format.group * format.group;
        double most = 0.0;
        for (int64_t i = group; i < group + format.group; ++i)
          most = std::max(most, std::fabs(static_cast<double>(x[static_cast<size_t>(r * 256 + i)])));
        // Half a step, and f16 rounding of header values that are at most 2^7 steps; symmetric i4 clips at 7/8 of one
        // side.
        const double steps = format.bits == 32   ? 1e30
                             : format.bits == 16 ? 128.0
                             : format.bits == 8  ? 127.0
                                                 : (format.offset == Offset::kNone ? 8.0 : 7.5);
        const double clipped = format.bits == 4 && format.offset == Offset::kNone ? 1.0 : 0.5;
        const double bound = most / steps * clipped + most * 0x1p-10;
        CHECK(std::fabs(reference_weight(weight->matrix(), r, c) - x[static_cast<size_t>(r * 256 + c)]) <= bound);
      }
    }
  }
}

TEST(bad_weights_name_the_tensor_and_the_row) {
  ThreadPool pool(2);
  for (const float bad : {NAN, INFINITY}) {
    std::vector<float> x(static_cast<size_t>(20 * 40), 1.0f);
    x[static_cast<size_t>(17 * 40 + 3)] = bad;
    const auto weight = Weight::create("layers.0.w", 20, 40, {.bits = 4, .group = 32});
    try {
      weight->pack_rows(0, 20, reinterpret_cast<const uint8_t*>(x.data()), SourceType::kF32, pool);
      CHECK(false);
    } catch (const Error& e) {
      CHECK_EQ(e.where, std::string("layers.0.w"));
      CHECK(e.found.find("row 17") != std::string::npos);
    }
  }
}

TEST(absurd_sizes_and_row_ranges_are_errors) {
  ThreadPool pool(1);
  const WeightFormat i4{.bits = 4, .group = 32};
  CHECK_THROWS(ErrorKind::kParameter, Weight::create("w", 0, 4, i4));
  CHECK_THROWS(ErrorKind::kParameter, Weight::create("w", 4, -1, i4));
  CHECK_THROWS(ErrorKind::kOutOfMemory, Weight::create("w", INT32_MAX, INT32_MAX, i4));
  const auto weight = Weight::create("w", 20, 40, i4);
  std::vector<uint8_t> bytes(static_cast<size_t>(40 * 40 * 4));
  CHECK_THROWS(ErrorKind::kParameter, weight->pack_rows(8, 4, bytes.data(), SourceType::kF32, pool));
  CHECK_THROWS(ErrorKind::kParameter, weight->pack_rows(16, 5, bytes.data(), SourceType::kF32, pool));
  CHECK_THROWS(ErrorKind::kFormat, weight->pack_rows(0, 4, bytes.data(), SourceType::kQ4_0, pool));
}

}  // namespace
}  // namespace jiffy
