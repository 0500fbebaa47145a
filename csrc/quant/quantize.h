// From float weights to the codes, scale and offset of one group: the rule that pack.cc and the oracle share in words
// and each write down for itself.
//
//   symmetric, 4 bit   scale = x / -8 where x has the largest magnitude, so that it gets code 0 exactly (as ggml's
//   Q4_0) symmetric, 8 bit   scale = max|x| / 127 asymmetric         scale = (max - min) / (2^bits - 1); 4 bit: offset
//   = min, 8 bit: offset = min + 128 scale code = round((x - offset) / scale) + bias, clamped to the bits; computed as
//   a product with 1 / scale, ties to even
//
// Scale and offset are rounded to the header's type first, so that codes make up for their rounding.
#pragma once

#include <cstdint>

#include "quant/format.h"

namespace jiffy {

struct GroupHeader {
  float scale = 0.0f, offset = 0.0f;
};

// codes[0:format.group] of x[0:n]; missing weights get the code of weight 0 (or the nearest there is: their activations
// are 0).
GroupHeader quantize_group(const float* x, int64_t n, const WeightFormat& format, uint8_t* codes);

}  // namespace jiffy
