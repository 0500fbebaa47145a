#include "kernels/cpu/select.h"

#include "base/cpu_info.h"
#include "base/error.h"

namespace jiffy {
namespace {

#define JIFFY_ENTRY(name, Args) .name = JIFFY_TABLE_ISA::name,
#define JIFFY_TABLE_ISA scalar
constexpr Kernels kScalar{.isa = "scalar", .native_pairs = false, JIFFY_KERNELS(JIFFY_ENTRY)};
#undef JIFFY_TABLE_ISA
#ifdef JIFFY_X86_64
#define JIFFY_TABLE_ISA avx2
constexpr Kernels kAvx2{.isa = "avx2", .native_pairs = false, JIFFY_KERNELS(JIFFY_ENTRY)};
#undef JIFFY_TABLE_ISA
#ifdef JIFFY_AVX_VNNI
#define JIFFY_TABLE_ISA avxvnni
constexpr Kernels kAvxVnni{.isa = "avxvnni", .native_pairs = false, JIFFY_KERNELS(JIFFY_ENTRY)};
#undef JIFFY_TABLE_ISA
#endif
#define JIFFY_TABLE_ISA avx512
constexpr Kernels kAvx512{.isa = "avx512", .native_pairs = false, JIFFY_KERNELS(JIFFY_ENTRY)};
#undef JIFFY_TABLE_ISA
constexpr Kernels with_native_pairs(Kernels table) {
  table.native_pairs = true;
  return table;
}
constexpr Kernels kAvx512Bf16 = with_native_pairs(kAvx512);
#ifdef JIFFY_MATRIX_TILES
// Without native pairs: on CPUs that multiply matrices that instruction takes two cycles, and the two fused
// multiply-adds that it stands for one.
constexpr Kernels with_matrix_tiles(Kernels table) {
  table.isa = "amx";
  table.matrix_tiles = true;
  table.far_prefetch = true;  // only Xeons have them
  return table;
}
constexpr Kernels kAmx = with_matrix_tiles(kAvx512);
#endif
#endif
#undef JIFFY_ENTRY

std::vector<const Kernels*> supported() {
  std::vector<const Kernels*> tables{&kScalar};
#ifdef JIFFY_X86_64
  static const CpuInfo cpu = detect_cpu();
  if (cpu.avx2) tables.push_back(&kAvx2);
#ifdef JIFFY_AVX_VNNI
  if (cpu.avx_vnni) tables.push_back(&kAvxVnni);
#endif
  if (cpu.avx512) tables.push_back(cpu.avx512_bf16 ? &kAvx512Bf16 : &kAvx512);
#ifdef JIFFY_MATRIX_TILES
  if (cpu.amx) tables.push_back(&kAmx);
#endif
#endif
  return tables;
}

}  // namespace

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Kernels* table : supported()) names.emplace_back(table->isa);
  return names;
}

const Kernels& select_kernels(const std::string& isa) {
  const std::vector<const Kernels*> tables = supported();
  if (isa == "auto") return *tables.back();
  std::string names;
  for (const Kernels* table : tables) {
    if (isa == table->isa) return *table;
    names += std::string(names.empty() ? "" : ", ") + table->isa;
  }
  throw Error(ErrorKind::kParameter, "isa", "one that this CPU runs: " + names, "\"" + isa + "\"");
}

}  // namespace jiffy
