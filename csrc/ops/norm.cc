// rms_norm, layer_norm, quantize, quantize behind a rotation, rms_norm and quantize at once
#include <algorithm>

#include "ops/op.h"

namespace jiffy {
namespace {

constexpr int64_t kRowsAtATime = 4;

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

// Deals tiles of rows out whole, so that no two lanes write to one cache line; where there are too few tiles, parts of
// their columns: no more than lanes where each part looks at whole rows.
template <class Body>
void share_tiles(const ActivationView& out, Worker& w, Body&& body) {
  const int64_t tiles = out.tiles().count(), wanted = int64_t{out.has_row_scale() ? 1 : 4} * w.lane.count();
  if (tiles == 0) return;  // a step without outputs
  const int64_t units = (out.cols + kColsTogether - 1) / kColsTogether;
  const int64_t parts = w.alone || tiles >= wanted ? 1 : std::min(units, (wanted + tiles - 1) / tiles);
  w.share(tiles * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t tile = i / parts, part = i % parts;
      const auto col = [&](int64_t p) { return p == parts ? out.cols : units * p / parts * kColsTogether; };
      body(TileRange{tile, tile + 1, col(part), col(part + 1)});
    }
  });
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
  const ActivationView out = c.output(0).quantized();
  share_tiles(out, w, [&](const TileRange& tiles) { w.kernels.quantize({c.input(0).floats(), out, tiles}); });
}

void check_rotate_quantize(const Check& c) {
  c.counts(1, 1, 0);
  check_quantized(c);
  const Value& q = c.output(0);
  c.that(q.format.bits == 8, "q8 rows", q.format.name());
  c.that(q.width % kRotated == 0, "rows of a multiple of " + std::to_string(kRotated), std::to_string(q.width));
}

void run_rotate_quantize(const Call& c, Worker& w) {
  const ActivationView out = c.output(0).quantized();
  share_tiles(out, w, [&](const TileRange& tiles) { w.kernels.rotate_quantize({c.input(0).floats(), out, tiles}); });
}

void check_rms_norm_quantize(const Check& c) {
  c.counts(1, 1, 1);
  check_quantized(c);
  c.is_floats(0, 1, c.input(0).width);
  check_eps(c);
}

void run_rms_norm_quantize(const Call& c, Worker& w) {
  const ActivationView out = c.output(0).quantized();
  share_tiles(out, w, [&](const TileRange& tiles) {
    w.kernels.rms_norm_quantize({c.input(0).floats(), c.parameter(0).floats, out, c.at.attributes.eps, tiles});
  });
}

}  // namespace jiffy
