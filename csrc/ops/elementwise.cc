// add, silu_mul, gelu, select
#include <cstring>

#include "ops/op.h"

namespace jiffy {
namespace {

constexpr int64_t kElementsAtATime = 4096;

void check_binary(const Check& c) {
  c.counts(2, 1, 0);
  const Value& y = c.output(0);
  for (size_t i = 0; i < 2; ++i) {
    c.is_float(c.input(i), y.width);
    c.same_space(c.input(i), y);
  }
  c.is_float(y, y.width);
}

}  // namespace

void check_add(const Check& c) { check_binary(c); }

void run_add(const Call& c, Worker& w) {
  const Operand& y = c.output(0);
  w.share(y.rows * y.type.width, kElementsAtATime, [&](int64_t begin, int64_t end) {
    w.kernels.add({c.input(0).floats(), c.input(1).floats(), y.floats(), begin, end});
  });
}

void check_silu_mul(const Check& c) { check_binary(c); }

void run_silu_mul(const Call& c, Worker& w) {
  const Operand& y = c.output(0);
  w.share(y.rows * y.type.width, kElementsAtATime, [&](int64_t begin, int64_t end) {
    w.kernels.silu_mul({c.input(0).floats(), c.input(1).floats(), y.floats(), begin, end});
  });
}

void check_gelu(const Check& c) {
  c.counts(1, 1, 0);
  c.is_float(c.input(0), c.output(0).width);
  c.is_float(c.output(0), c.input(0).width);
  c.same_space(c.input(0), c.output(0));
}

void run_gelu(const Call& c, Worker& w) {
  const Operand& y = c.output(0);
  w.share(y.rows * y.type.width, kElementsAtATime, [&](int64_t begin, int64_t end) {
    w.kernels.gelu({c.input(0).floats(), y.floats(), c.at.attributes.tanh, begin, end});
  });
}

void check_select(const Check& c) {
  c.counts(1, 1, 0);
  c.is_float(c.input(0), c.output(0).width);
  c.is_float(c.output(0), c.input(0).width);
  c.that(c.input(0).space == Space::kTokens && c.output(0).space == Space::kOutputs,
         "rows of tokens to rows of outputs", "other spaces");
}

void run_select(const Call& c, Worker& w) {
  const int64_t width = c.input(0).type.width;
  w.share(c.batch.n_outputs, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(c.output(0).floats() + i * width, c.input(0).floats() + c.batch.output_rows[i] * width,
                  static_cast<size_t>(width) * sizeof(float));
    }
  });
}

}  // namespace jiffy
