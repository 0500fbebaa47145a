// A language model with random weights, small enough to run thousands of steps a second.
#pragma once

#include <memory>

#include "program/program.h"
#include "quant/format.h"

namespace jiffy {

struct TinyModel {
  static constexpr int64_t kVocabSize = 50;
  static constexpr int32_t kPoison = 49;  // a token whose embedding overflows in the first matrix product
  static constexpr int64_t kContext = 2048;

  static std::shared_ptr<const Program> make(const WeightFormat& format);
};

}  // namespace jiffy
