// Which kernel tables this CPU can run, and how to choose one.
#pragma once

#include <string>
#include <vector>

#include "kernels/cpu/kernels.h"

namespace jiffy {

// The sets that run here, slowest first; "scalar" always does.
std::vector<std::string> supported_isas();

// The table of `isa`; "auto" takes the fastest. Throws Error kParameter for a set that doesn't run here.
const Kernels& select_kernels(const std::string& isa);

}  // namespace jiffy
