#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/cpu_info.h"
#include "base/cpu_limits.h"
#include "base/dtype.h"
#include "base/error.h"
#include "check.h"

namespace jiffy {
namespace {

struct ProcessMemory {
  size_t mapped = 0, resident = 0;  // bytes
};

ProcessMemory process_memory() {
  size_t mapped_pages = 0;
  size_t resident_pages = 0;
  std::ifstream("/proc/self/statm") >> mapped_pages >> resident_pages;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return {mapped_pages * page, resident_pages * page};
}

bool is_aligned(const void* pointer, size_t alignment) { return reinterpret_cast<uintptr_t>(pointer) % alignment == 0; }

TEST(error_names_place_expected_and_found) {
  try {
    fail(ErrorKind::kFormat, "model.gguf", "4 bytes", "3");
  } catch (const Error& error) {
    const Error copy = error;
    CHECK_EQ(std::string(copy.what()), "model.gguf: expected 4 bytes, found 3");
    CHECK_EQ(copy.kind, ErrorKind::kFormat);
    CHECK_EQ(copy.where, "model.gguf");
    CHECK_EQ(copy.expected, "4 bytes");
    CHECK_EQ(copy.found, "3");
  }
  CHECK_THROWS(ErrorKind::kInternal, fail(ErrorKind::kInternal, "a", "b", "c"));
}

TEST(buffer_is_aligned_zeroed_and_writable_to_its_end) {
  for (size_t bytes :
       {size_t{1}, size_t{4096}, size_t{4097}, (size_t{2} << 20) - 1, size_t{2} << 20, size_t{5000001}}) {
    Buffer buffer = Buffer::allocate(bytes, "test");
    CHECK_EQ(buffer.size(), bytes);
    CHECK(is_aligned(buffer.data(), bytes >= (size_t{2} << 20) ? size_t{2} << 20 : 4096));
    uint8_t* data = buffer.as<uint8_t>();
    size_t nonzero = 0;
    for (size_t i = 0; i < bytes; ++i) nonzero += data[i] != 0;
    CHECK_EQ(nonzero, 0);
    std::memset(data, 0xff, bytes);
  }
}

TEST(buffer_of_no_bytes_is_empty) {
  const Buffer buffer = Buffer::allocate(0, "test");
  CHECK_EQ(buffer.size(), 0);
  CHECK(buffer.data() == nullptr);
}

TEST(buffer_moves) {
  Buffer first = Buffer::allocate(100, "test");
  first.as<int32_t>()[0] = 7;
  Buffer second = std::move(first);
  CHECK(first.data() == nullptr);
  CHECK_EQ(first.size(), 0);
  Buffer third = Buffer::allocate(50, "test");
  third = std::move(second);
  CHECK(second.data() == nullptr);
  CHECK_EQ(third.size(), 100);
  CHECK_EQ(third.as<int32_t>()[0], 7);
}

TEST(buffer_costs_what_is_touched) {
  const ProcessMemory before = process_memory();
  Buffer large = Buffer::allocate(size_t{1} << 30, "test");
  large.as<uint8_t>()[large.size() - 1] = 1;
  CHECK(process_memory().resident < before.resident + (size_t{8} << 20));
}

TEST(buffer_gives_memory_back) {
  const ProcessMemory before = process_memory();
  for (int i = 0; i < 100; ++i) Buffer::allocate(size_t{1} << 30, "test");
  CHECK(process_memory().mapped < before.mapped + (size_t{1} << 30));
}

// Alignment to 2 MiB must leave nothing behind in front of a buffer or after it.
TEST(buffers_map_no_more_than_they_hold) {
  for (size_t bytes : {size_t{100}, (size_t{2} << 20) + 4096}) {
    const ProcessMemory before = process_memory();
    std::vector<Buffer> buffers;
    for (int i = 0; i < 500; ++i) buffers.push_back(Buffer::allocate(bytes, "test"));
    const size_t pages = 500 * (bytes + 4096);
    CHECK(process_memory().mapped < before.mapped + pages + (size_t{32} << 20));
  }
}

TEST(buffer_too_large_is_an_error_that_names_it) {
  CHECK_THROWS(ErrorKind::kOutOfMemory, Buffer::allocate(std::numeric_limits<size_t>::max(), "KV cache"));
  try {
    Buffer::allocate(size_t{1} << 60, "KV cache");
    CHECK(!"an allocation of 2^60 bytes failed");
  } catch (const Error& error) {
    CHECK_EQ(error.kind, ErrorKind::kOutOfMemory);
    CHECK_EQ(error.where, "KV cache");
    CHECK_EQ(error.expected, "1152921504606846976 bytes of memory");
    CHECK_EQ(error.found, std::strerror(ENOMEM));
  }
}

TEST(dtypes_have_sizes_and_names) {
  CHECK_EQ(size_of(DType::kF32) + size_of(DType::kI32), 8);
  CHECK_EQ(size_of(DType::kF16) + size_of(DType::kBF16), 4);
  CHECK_EQ(size_of(DType::kI8), 1);
  std::string names;
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8, DType::kI32}) names += name(dtype);
  CHECK_EQ(names, "f32f16bf16i8i32");
}

// The value of a half by its definition in IEEE 754, section 3.4.
double value_of_half(uint32_t half) {
  const int exponent = half >> 10 & 31;
  const int fraction = half & 1023;
  const double sign = half & 0x8000 ? -1 : 1;
  if (exponent == 31) return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * INFINITY;
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

TEST(every_half_has_its_value_and_comes_back) {
  for (uint32_t half = 0; half < 0x10000; ++half) {
    const float value = f16_to_f32(static_cast<uint16_t>(half));
    if (std::isnan(value_of_half(half))) {
      CHECK(std::isnan(value));
      CHECK_EQ(f32_to_f16(value), half | 0x200);
    } else {
      CHECK_EQ(value, value_of_half(half));
      CHECK_EQ(std::signbit(value), (half & 0x8000) != 0);
      CHECK_EQ(f32_to_f16(value), half);
    }
  }
}

// Between two neighbouring halves lie their middle, a tie, and the floats next to it: rounding goes wrong there first.
TEST(floats_between_halves_round_to_the_nearest_even) {
  for (uint16_t low = 0; low < 0x7c00; ++low) {
    const uint16_t high = low + 1;
    const double above = high == 0x7c00 ? 65536 : value_of_half(high);  // where the next half would be
    const float middle = static_cast<float>((value_of_half(low) + above) / 2);
    CHECK_EQ(f32_to_f16(std::nextafter(middle, 0.0f)), low);
    CHECK_EQ(f32_to_f16(middle), low % 2 == 0 ? low : high);
    CHECK_EQ(f32_to_f16(std::nextafter(middle, INFINITY)), high);
    CHECK_EQ(f32_to_f16(-middle), 0x8000 | (low % 2 == 0 ? low : high));
  }
  CHECK_EQ(f32_to_f16(1e30f), 0x7c00);
  CHECK_EQ(f32_to_f16(-INFINITY), 0xfc00);
  CHECK_EQ(f32_to_f16(1e-40f), 0);
}

#if defined(__FLT16_MANT_DIG__)
// The compiler's own half, over floats spread evenly through all bit patterns.
TEST(floats_convert_as_the_compiler_converts) {
  for (uint64_t bits = 0; bits <= 0xffffffff; bits += 2557) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(bits));
    CHECK_EQ(f32_to_f16(value), std::bit_cast<uint16_t>(static_cast<_Float16>(value)));
  }
}
#endif

TEST(every_bf16_comes_back_and_ties_go_to_even) {
  for (uint32_t top = 0; top < 0x10000; ++top) {
    const float value = bf16_to_f32(static_cast<uint16_t>(top));
    const bool is_nan = (top & 0x7fff) > 0x7f80;
    CHECK_EQ(std::bit_cast<uint32_t>(value), top << 16);
    CHECK_EQ(f32_to_bf16(value), is_nan ? top | 0x40 : top);
    if ((top & 0x7fff) >= 0x7f80) continue;
    CHECK_EQ(f32_to_bf16(std::bit_cast<float>(top << 16 | 0x7fff)), top);
    CHECK_EQ(f32_to_bf16(std::bit_cast<float>(top << 16 | 0x8000)), top + top % 2);
    CHECK_EQ(f32_to_bf16(std::bit_cast<float>(top << 16 | 0x8001)), top + 1);
  }
  CHECK_EQ(f32_to_bf16(std::bit_cast<float>(0x7f800001u)), 0x7fc0);
}

// A folder that plays the root of a Linux file system.
class FakeRoot {
 public:
  FakeRoot() {
    std::string pattern = (std::filesystem::temp_directory_path() / "jiffy-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~FakeRoot() { std::filesystem::remove_all(path_); }
  FakeRoot(const FakeRoot&) = delete;
  FakeRoot& operator=(const FakeRoot&) = delete;

  void write(const std::string& file, const std::string& text) const {
    std::filesystem::create_directories((path_ / file).parent_path());
    std::ofstream(path_ / file) << text;
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

TEST(cpu_quota_text) {
  CHECK_EQ(parse_cpu_quota("150000 100000\n"), 1.5);
  for (const char* text : {"max 100000\n", "-1\n 100000\n", "", "5", "5 0", "x y", "0 100000"}) {
    CHECK(std::isinf(parse_cpu_quota(text)));
  }
}

TEST(cgroup_lines) {
  const auto entries = parse_cgroup_entries("4:cpu,cpuacct:/a/b:c\nbroken\n0::/../../x\n0::/..\n");
  CHECK_EQ(entries.size(), 3);
  CHECK(entries[0].controllers == std::vector<std::string>({"cpu", "cpuacct"}));
  CHECK_EQ(entries[0].path.string(), "a/b:c");
  CHECK(entries[1].controllers.empty());
  CHECK_EQ(entries[1].path.string(), "x");
  CHECK_EQ(entries[2].path.string(), "");
}

TEST(cgroup_2_quota_is_the_smallest_of_all_levels) {
  const FakeRoot root;
  CHECK(std::isinf(cgroup_cpu_quota(root.path())));
  root.write("proc/self/cgroup", "0::/user/session/job\n");
  CHECK(std::isinf(cgroup_cpu_quota(root.path())));
  root.write("sys/fs/cgroup/user/cpu.max", "300000 100000\n");
  root.write("sys/fs/cgroup/user/session/job/cpu.max", "max 100000\n");
  CHECK_EQ(cgroup_cpu_quota(root.path()), 3.0);
  root.write("sys/fs/cgroup/cpu.max", "50000 100000\n");
  CHECK_EQ(cgroup_cpu_quota(root.path()), 0.5);
}

TEST(cgroup_1_quota) {
  const FakeRoot root;
  root.write("proc/self/cgroup", "5:memory:/m\n3:cpu,cpuacct:/docker/abc\n0::/\n");
  root.write("sys/fs/cgroup/memory/m/cpu.cfs_quota_us", "100\n");
  root.write("sys/fs/cgroup/memory/m/cpu.cfs_period_us", "100000\n");
  root.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  root.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  CHECK(std::isinf(cgroup_cpu_quota(root.path())));
  root.write("sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "250000\n");
  root.write("sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n");
  CHECK_EQ(cgroup_cpu_quota(root.path()), 2.5);
}

TEST(sibling_threads_count_as_one_core) {
  const FakeRoot root;
  const char* siblings[] = {"0,4\n", "1,5\n", "2,6\n", "3,7\n"};
  for (int cpu = 0; cpu < 8; ++cpu) {
    root.write("sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list",
               siblings[cpu % 4]);
  }
  CHECK_EQ(count_physical_cores({0, 1, 2, 3, 4, 5, 6, 7}, root.path()), 4);
  CHECK_EQ(count_physical_cores({1, 5, 2}, root.path()), 2);
  CHECK_EQ(count_physical_cores({100, 101}, root.path()), 2);
}

TEST(this_cpu_makes_sense) {
  const CpuInfo cpu = detect_cpu();
  CHECK(!cpu.name.empty());
  CHECK(cpu.default_threads >= 1);
  CHECK(cpu.default_threads <= cpu.physical_cores);
  CHECK(cpu.physical_cores <= cpu.usable_cpus);
#if defined(__x86_64__)
  CHECK_EQ(cpu.avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"));
  CHECK_EQ(cpu.avx512, cpu.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                           __builtin_cpu_supports("avx512vnni"));
  CHECK_EQ(cpu.avx512_bf16, cpu.avx512 && __builtin_cpu_supports("avx512bf16"));
#endif
}

}  // namespace
}  // namespace jiffy
