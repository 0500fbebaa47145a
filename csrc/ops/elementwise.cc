// add, mul, silu_mul, gelu, activation, select, pool
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

void check_unary(const Check& c) {
  c.counts(1, 1, 0);
  c.is_float(c.input(0), c.output(0).width);
  c.is_float(c.output(0), c.input(0).width);
  c.same_space(c.input(0), c.output(0));
}

void check_to_outputs(const Check& c) {
  c.counts(1, 1, 0);
  c.is_float(c.input(0), c.output(0).width);
  c.is_float(c.output(0), c.input(0).width);
  c.that(c.input(0).space == Space::kTokens && c.output(0).space == Space::kOutputs,
         "rows of tokens to rows of outputs", "other spaces");
}

}  // namespace

void check_add(const Check& c) { check_binary(c); }

void run_add(const Call& c, Worker& w) {
  const Operand& y = c.output(0);
  w.share(y.rows * y.type.width, kElementsAtATime, [&](int64_t begin, int64_t end) {
    w.kernels.add({c.input(0).floats(), c.input(1).floats(), y.floats(), begin, end});
  });
}

void check_mul(const Check& c) { check_binary(c); }

void run_mul(const Call& c, Worker& w) {
  const Operand& y = c.output(0);
  w.share(y.rows * y.type.width, kElementsAtATime, [&](int64_t begin, int64_t end) {
    w.kernels.mul({c.input(0).floats(), c.input(1).floats(), y.floats(), begin, end});
  });
}

void check_silu_mul(const Check& c) { check_binary(c); }

void run_silu_mul(const Call& c, Worker& w) {
  const Operand& y = c.output(0);
  w.share(y.rows * y.type.width, kElementsAtATime, [&](int64_t begin, int64_t end) {
    w.kernels.silu_mul({c.input(0).floats(), c.input(1).floats(), y.floats(), begin, end});
  });
}

void check_gelu(const Check& c) { check_unary(c); }

void run_gelu(const Call& c, Worker& w) {
  const Operand& y = c.output(0);
  w.share(y.rows * y.type.width, kElementsAtATime, [&](int64_t begin, int64_t end) {
    w.kernels.gelu({c.input(0).floats(), y.floats(), c.at.attributes.tanh, begin, end});
  });
}

void check_activation(const Check& c) {
  check_unary(c);
  c.that(c.at.attributes.function <= Function::kSilu, "a function of 0 to 2",
         std::to_string(static_cast<int>(c.at.attributes.function)));
}

void run_activation(const Call& c, Worker& w) {
  const Operand& y = c.output(0);
  w.share(y.rows * y.type.width, kElementsAtATime, [&](int64_t begin, int64_t end) {
    w.kernels.activation({c.input(0).floats(), y.floats(), c.at.attributes.function, begin, end});
  });
}

void check_select(const Check& c) { check_to_outputs(c); }

void run_select(const Call& c, Worker& w) {
  const int64_t width = c.input(0).type.width;
  w.share(c.batch.n_outputs, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(c.output(0).floats() + i * width, c.input(0).floats() + c.batch.output_rows[i] * width,
                  static_cast<size_t>(width) * sizeof(float));
    }
  });
}

void check_pool(const Check& c) {
  check_to_outputs(c);
  c.that(c.at.attributes.pooling <= Pooling::kLast, "a pooling of 0 to 3",
         std::to_string(static_cast<int>(c.at.attributes.pooling)));
}

void run_pool(const Call& c, Worker& w) {
  const int64_t width = c.input(0).type.width;
  w.share(c.batch.n_slices, 1, [&](int64_t i, int64_t) {
    const SliceView& slice = c.batch.slices[i];
    w.kernels.pool({c.input(0).floats() + slice.begin * width, c.output(0).floats() + i * width,
                    slice.end - slice.begin, width, c.at.attributes.pooling});
  });
}

}  // namespace jiffy
