// The packed layouts written down a second time, slowly: one weight at a time, straight from the picture in format.h.
// The oracle of weight.cc and of every kernel.
#pragma once

#include <vector>

#include "quant/activations.h"
#include "quant/format.h"

namespace jiffy {

// weight[row][col] in f64: scale and offset are floats, codes small integers, so nothing is rounded.
double reference_weight(const PackedMatrix& m, int64_t row, int64_t col);

// [rows, cols], rounded to float once.
std::vector<float> reference_unpack(const PackedMatrix& m);

// One activation of quantised rows, found from the picture in activations.h.
float reference_activation(const ActivationView& x, int64_t row, int64_t col);

// The slabs of `x`, [rows, cols], by the rule in quantize.h; padding rows and the lanes behind them are zero bytes.
std::vector<uint8_t> reference_pack(const float* x, int64_t rows, int64_t cols, const WeightFormat& format);

}  // namespace jiffy
