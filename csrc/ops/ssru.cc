// the simpler simple recurrent unit: its state goes from token to token, through the blocks of the KV cache
#include "ops/op.h"

namespace jiffy {
namespace {

constexpr int64_t kElementsAtATime = 256;

}  // namespace

void check_ssru(const Check& c) {
  c.counts(2, 1, 0);
  const Value& y = c.output(0);
  c.is_float(y, y.width);
  for (size_t i = 0; i < 2; ++i) c.is_float(c.input(i), y.width);
  for (const Value* value : {&c.input(0), &c.input(1), &y}) {
    c.that(value->space == Space::kTokens, "one row a token", "one row an output");
  }
}

// The tokens of a slice come one after the other, but the elements of a state know nothing of each other.
void run_ssru(const Call& c, Worker& w) {
  const int64_t width = c.output(0).type.width, parts = (width + kElementsAtATime - 1) / kElementsAtATime;
  w.share(c.batch.n_slices * parts, 1, [&](int64_t index, int64_t) {
    const SliceView& slice = c.batch.slices[index / parts];
    const int64_t begin = index % parts * kElementsAtATime, left = width - begin;
    const auto state = [&](int64_t position) { return c.kv.state(c.at.attributes.layer, slice.block_table, position); };
    for (int64_t row = slice.begin; row < slice.end; ++row) {
      const int64_t position = slice.position + row - slice.begin;
      w.kernels.ssru({.forget = c.input(0).floats() + row * width,
                      .x = c.input(1).floats() + row * width,
                      .before = position == 0 ? nullptr : state(position - 1),
                      .after = state(position),
                      .y = c.output(0).floats() + row * width,
                      .begin = begin,
                      .end = begin + (left < kElementsAtATime ? left : kElementsAtATime)});
    }
  });
}

}  // namespace jiffy
