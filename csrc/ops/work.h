// What an instruction has to do at the least: the figure that its time is compared with.
#pragma once

#include "ops/op.h"

namespace jiffy {

struct Work {
  // Of weights and KV cache, each read or written once in the step. Rows of values stay in caches and don't count.
  int64_t bytes = 0;
  // Two for each multiply-add of matmul and attention; all other arithmetic is small beside them.
  int64_t operations = 0;
  Arithmetic arithmetic = Arithmetic::kF32;  // whose peak bounds the operations
};

Work work(const Call& call);

}  // namespace jiffy
