#include "base/cpu_info.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <thread>
#include <vector>

#include "base/cpu_limits.h"

#if defined(__x86_64__)
#include <cpuid.h>
#else
#include <sys/utsname.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace jiffy {
namespace {

#if defined(__x86_64__)

struct CpuidLeaf {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zero where the CPU doesn't know the leaf.
CpuidLeaf cpuid(uint32_t leaf, uint32_t subleaf = 0) {
  CpuidLeaf result;
  __get_cpuid_count(leaf, subleaf, &result.eax, &result.ebx, &result.ecx, &result.edx);
  return result;
}

bool all_set(uint64_t bits, std::initializer_list<int> positions) {
  return std::all_of(positions.begin(), positions.end(), [bits](int position) { return bits >> position & 1; });
}

// Which registers the operating system saves. An instruction of its own, since the intrinsic needs -mxsave.
uint64_t read_xcr0() {
  uint32_t low = 0;
  uint32_t high = 0;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

// Linux gives a process the large registers of matrix instructions when it asks for them (arch_prctl,
// Documentation/arch/x86/xstate.rst), threads that are made later included.
bool matrices_allowed() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// Bit positions: Intel's Software Developer's Manual, volume 2A (CPUID) and volume 1, chapter 13 (XCR0).
void detect_instructions(CpuInfo& info) {
  const CpuidLeaf leaf1 = cpuid(1);
  if (!all_set(leaf1.ecx, {27})) return;  // OSXSAVE: without it xgetbv traps
  const uint64_t xcr0 = read_xcr0();
  const CpuidLeaf leaf7 = cpuid(7);
  const CpuidLeaf leaf7_1 = leaf7.eax >= 1 ? cpuid(7, 1) : CpuidLeaf{};
  const bool ymm_saved = all_set(xcr0, {1, 2});
  const bool zmm_saved = ymm_saved && all_set(xcr0, {5, 6, 7});
  info.avx2 = ymm_saved && all_set(leaf1.ecx, {12, 28, 29}) && all_set(leaf7.ebx, {5});  // FMA, AVX, F16C; AVX2
  info.avx512 = info.avx2 && zmm_saved && all_set(leaf7.ebx, {16, 17, 30, 31})           // F, DQ, BW, VL
                && all_set(leaf7.ecx, {11});                                             // VNNI
  info.avx512_bf16 = info.avx512 && all_set(leaf7_1.eax, {5});
  info.amx = info.avx512_bf16 && all_set(xcr0, {17, 18}) && all_set(leaf7.edx, {22, 24, 25}) && matrices_allowed();
  info.avx_vnni = info.avx2 && all_set(leaf7_1.eax, {4});
}

std::string cpu_name() {
  char text[49] = {};  // three leaves of 16 characters
  for (uint32_t part = 0; part < 3; ++part) {
    const CpuidLeaf leaf = cpuid(0x80000002 + part);
    std::memcpy(text + 16 * part, &leaf, sizeof(leaf));
  }
  const std::string padded = text;
  const size_t first = padded.find_first_not_of(' ');
  return first == std::string::npos ? "x86-64" : padded.substr(first, padded.find_last_not_of(' ') - first + 1);
}

#else

void detect_instructions(CpuInfo&) {}

std::string cpu_name() {
  utsname system{};
  return uname(&system) == 0 ? system.machine : "unknown";
}

#endif

#if defined(__linux__)

// Empty when the system won't say.
std::vector<int> affinity_mask() {
  std::vector<cpu_set_t> mask(64);  // 65536 CPUs: the call fails when the kernel's mask is longer than ours
  const size_t bytes = mask.size() * sizeof(cpu_set_t);
  std::vector<int> cpus;
  if (sched_getaffinity(0, bytes, mask.data()) != 0) return cpus;
  for (int cpu = 0; cpu < static_cast<int>(8 * bytes); ++cpu) {
    if (CPU_ISSET_S(cpu, bytes, mask.data())) cpus.push_back(cpu);
  }
  return cpus;
}

#else

std::vector<int> affinity_mask() { return {}; }

#endif

}  // namespace

CpuInfo detect_cpu() {
  CpuInfo info;
  info.name = cpu_name();
  detect_instructions(info);
  const std::vector<int> cpus = affinity_mask();
  const int known_cpus = static_cast<int>(std::thread::hardware_concurrency());
  info.usable_cpus = std::max(1, cpus.empty() ? known_cpus : static_cast<int>(cpus.size()));
  info.physical_cores = cpus.empty() ? info.usable_cpus : count_physical_cores(cpus, "/");
  const double quota = std::ceil(cgroup_cpu_quota("/"));
  info.default_threads = std::max(1, static_cast<int>(std::min<double>(info.physical_cores, quota)));
  return info;
}

}  // namespace jiffy
