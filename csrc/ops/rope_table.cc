#include "ops/rope_table.h"

#include <cmath>
#include <string>

#include "base/error.h"

namespace jiffy {
namespace {

constexpr int64_t kMostFrequencies = 1 << 20;

}  // namespace

RopeTable::RopeTable(RopeAngles angles, int64_t context) : angles_(std::move(angles)), rows_(context) {
  if (context < 1 || context > INT32_MAX) {
    fail(ErrorKind::kParameter, "context", "1 to 2147483647", std::to_string(context));
  }
  const auto n = static_cast<int64_t>(angles_.frequencies.size());
  if (n < 1 || n > kMostFrequencies) {
    fail(ErrorKind::kParameter, "frequencies", "1 to " + std::to_string(kMostFrequencies), std::to_string(n));
  }
  const auto bytes = static_cast<size_t>(rows_) * static_cast<size_t>(n) * sizeof(float);
  table_ = Buffer::allocate(bytes, "rope tables of " + std::to_string(context) + " positions");
  float* out = table_.as<float>();
  for (int64_t p = 0; p < rows_; ++p) {
    for (const double frequency : angles_.frequencies) {
      const double angle = static_cast<double>(p) * frequency;
      *out++ = static_cast<float>(angles_.factor * (angles_.sine ? std::sin(angle) : std::cos(angle)));
    }
  }
}

}  // namespace jiffy
