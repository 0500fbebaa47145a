// What the op activation makes of numbers. Included inside no namespace.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {
namespace {

// max(x, 0), tanh(x) or x / (1 + exp(-x))
inline Floats activated(Function function, Floats x) {
  return function == Function::kRelu   ? max(zeros(), x)
         : function == Function::kTanh ? tanh(x)
                                       : silu_mul(x, splat(1.0f));
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
