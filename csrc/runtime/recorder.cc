#include "runtime/recorder.h"

#include <algorithm>
#include <string>

#include "quant/reference.h"

namespace jiffy {
namespace {

bool makes(const Instruction& at, int value) {
  return std::find(at.outputs.begin(), at.outputs.end(), value) != at.outputs.end();
}

void copy_rows(const Operand& from, float* to) {
  if (!from.type.format.quantized()) {
    std::copy_n(from.floats(), from.rows * from.type.width, to);
    return;
  }
  const ActivationView quantized = from.quantized();
  for (int64_t row = 0; row < from.rows; ++row) {
    for (int64_t col = 0; col < from.type.width; ++col) *to++ = reference_activation(quantized, row, col);
  }
}

}  // namespace

Recorder::Recorder(const Program& program, const std::vector<int>& values, int64_t n_tokens) {
  for (size_t i = 0; i < values.size(); ++i) {
    const int value = values[i];
    const std::vector<Instruction>& all = program.instructions();
    if (std::none_of(all.begin(), all.end(), [&](const Instruction& at) { return makes(at, value); })) {
      fail(ErrorKind::kParameter, "values[" + std::to_string(i) + "]", "a value that an instruction makes",
           std::to_string(value));
    }
    const int64_t width = program.values()[static_cast<size_t>(value)].width;
    records_.push_back({value, width,
                        Buffer::allocate(static_cast<size_t>(n_tokens * width) * sizeof(float),
                                         "the rows of value " + std::to_string(value))});
  }
}

void Recorder::operator()(const Observation& observation) {
  const Call& call = observation.call;
  for (Record& record : records_) {
    if (!makes(call.at, record.value)) continue;
    copy_rows(call.operands[static_cast<size_t>(record.value)],
              record.rows.as<float>() + call.batch.slices[0].position * record.width);
  }
}

}  // namespace jiffy
