// rms_norm, layer_norm, quantize, rms_norm and quantize at once
#include "ops/op.h"

namespace jiffy {
namespace {

constexpr int64_t kRowsAtATime = 2;

void check_eps(const Check& c) {
  c.that(c.at.attributes.eps >= 0.0f, "eps of at least 0", std::to_string(c.at.attributes.eps));
}

void check_quantized(const Check& c) {
  const Value& x = c.input(0);
  const Value& q = c.output(0);
  c.is_float(x, q.width);
  c.same_space(x, q);
  c.that(q.format.quantized(), "bf16 or q8 rows", q.format.name());
}

void check_norm(const Check& c) {
  c.is_float(c.input(0), c.output(0).width);
  c.is_float(c.output(0), c.input(0).width);
  c.same_space(c.input(0), c.output(0));
  c.is_floats(0, 1, c.input(0).width);
  check_eps(c);
}

}  // namespace

void check_rms_norm(const Check& c) {
  c.counts(1, 1, 1);
  check_norm(c);
}

void run_rms_norm(const Call& c, Worker& w) {
  const Operand& x = c.input(0);
  w.share(x.rows, kRowsAtATime, [&](int64_t begin, int64_t end) {
    w.kernels.rms_norm(
        {x.floats(), c.parameter(0).floats, c.output(0).floats(), x.type.width, c.at.attributes.eps, begin, end});
  });
}

void check_layer_norm(const Check& c) {
  c.counts(1, 1, 2);
  check_norm(c);
  if (c.has_parameter(1)) c.is_floats(1, 1, c.input(0).width);
}

void run_layer_norm(const Call& c, Worker& w) {
  const Operand& x = c.input(0);
  const float* bias = c.has_parameter(1) ? c.parameter(1).floats : nullptr;
  w.share(x.rows, kRowsAtATime, [&](int64_t begin, int64_t end) {
    w.kernels.layer_norm(
        {x.floats(), c.parameter(0).floats, bias, c.output(0).floats(), x.type.width, c.at.attributes.eps, begin, end});
  });
}

void check_quantize(const Check& c) {
  c.counts(1, 1, 0);
  check_quantized(c);
}

void run_quantize(const Call& c, Worker& w) {
  const Operand& x = c.input(0);
  w.share(x.rows, kRowsAtATime,
          [&](int64_t begin, int64_t end) { w.kernels.quantize({x.floats(), c.output(0).quantized(), begin, end}); });
}

void check_rms_norm_quantize(const Check& c) {
  c.counts(1, 1, 1);
  check_quantized(c);
  c.is_floats(0, 1, c.input(0).width);
  check_eps(c);
}

void run_rms_norm_quantize(const Call& c, Worker& w) {
  const Operand& x = c.input(0);
  w.share(x.rows, kRowsAtATime, [&](int64_t begin, int64_t end) {
    w.kernels.rms_norm_quantize(
        {x.floats(), c.parameter(0).floats, c.output(0).quantized(), c.at.attributes.eps, begin, end});
  });
}

}  // namespace jiffy
