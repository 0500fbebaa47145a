#pragma once

#include <string>

namespace jiffy {

// What this process may use of this machine.
struct CpuInfo {
  std::string name;          // the vendor's brand string; the architecture's name where there is none
  bool avx2 = false;         // AVX2, FMA and F16C
  bool avx512 = false;       // AVX-512 F, BW, DQ, VL and VNNI
  bool avx512_bf16 = false;  // vdpbf16ps on top of avx512
  bool amx = false;          // matrices of int8 and bf16, on top of avx512_bf16, where the system lets this process
  bool avx_vnni = false;     // the 256-bit VEX form of vpdpbusd
  int usable_cpus = 1;       // logical CPUs in the affinity mask
  int physical_cores = 1;    // cores behind them: siblings of one core count once
  int default_threads = 1;   // min(physical_cores, cgroup CPU quota rounded up)
};

// A flag is true only when the operating system saves the registers that the instructions need.
CpuInfo detect_cpu();

}  // namespace jiffy
