#include "quant/activations.h"

namespace jiffy {

std::string RowFormat::name() const {
  return bits == 32 ? "f32" : bits == 16 ? "bf16" : "q8(" + std::to_string(group) + ")";
}

}  // namespace jiffy
