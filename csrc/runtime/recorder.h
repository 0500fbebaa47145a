// Values of a program, copied while a prompt runs.
#pragma once

#include <vector>

#include "base/buffer.h"
#include "program/executor.h"

namespace jiffy {

// An Observer of the steps of one prompt, all of whose rows are outputs, or of one sequence that is pooled: it copies
// the rows of chosen values, in the order of their positions, quantised rows as the floats that they stand for.
class Recorder {
 public:
  // Throws kParameter for a value that no instruction of the program makes (there is none with such a number, or fusion
  // left it out), kOutOfMemory.
  Recorder(const Program& program, const std::vector<int>& values, int64_t n_tokens);

  void operator()(const Observation& observation);

  int64_t width(size_t i) const { return records_[i].width; }
  const float* rows(size_t i) const { return records_[i].rows.as<float>(); }  // [n_tokens, width(i)] of values[i]

 private:
  struct Record {
    int value;
    int64_t width;
    Buffer rows;
  };
  std::vector<Record> records_;
};

}  // namespace jiffy
