// What each instruction of a step did.
#pragma once

#include <vector>

#include "ops/work.h"
#include "program/executor.h"

namespace jiffy {

struct InstructionProfile {
  const char* op;
  double seconds;
  Work work;
};

inline Observer profiling(std::vector<InstructionProfile>& profile) {
  return [&profile](const Observation& o) { profile.push_back({op(o.call.at.op).name, o.seconds, work(o.call)}); };
}

}  // namespace jiffy
