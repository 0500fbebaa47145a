// Quantised groups of columns, one row at a time: for any group, any tile and any end of a row. Included inside no
// namespace.
#pragma once

#include "kernels/cpu/int8_grid.h"
#include "kernels/cpu/kernels.h"

namespace jiffy::JIFFY_ISA {
namespace {

// A tile of rows in groups. What a group needs to know is found once: a division takes as long as 8 columns.
struct TileGroups {
  const ActivationView& out;
  int64_t first, rows, cols, group, run;
  int8_t* data;
  int64_t scales;  // where those of the first group lie

  TileGroups(const ActivationView& out, const RowTile& tile)
      : out(out),
        first(tile.first),
        rows(tile.rows),
        cols(out.cols),
        group(out.group),
        run(out.run()),
        data(out.place(tile, 0, 0)),
        scales(tile.first * out.groups()) {}

  int64_t place(int64_t index, int64_t row) const { return scales + index * rows + row; }
  // What belongs to the sum of the codes of the group at place `at`; scale: but for what its row's groups have in
  // common.
  void set_sum(int64_t at, float scale, int32_t sum) const {
    out.correction[at] = -8 * sum;
    out.scaled_sum[at] = scale * static_cast<float>(sum);
  }
};

// Group `index` of row `row` of a tile, the columns from `begin` on.
struct RowGroup {
  int64_t row, index, begin;

  int64_t place(const TileGroups& t) const { return t.place(index, row); }
};

// Where the codes of a group go, 16 at a time.
struct CodesInRuns {
  int8_t* to;
  int64_t run, rows;
  int64_t left;  // of the run

  CodesInRuns(const TileGroups& t, const RowGroup& at)
      : to(t.data + at.begin * t.rows + at.row * t.run), run(t.run), rows(t.rows), left(run) {}

  void put(Ints codes) {
    if (run == 4) {
      alignas(16) int8_t bytes[kLanes];
      store_low_bytes(bytes, codes);
      for (int j = 0; j < 4; ++j, to += 4 * rows) __builtin_memcpy(to, bytes + 4 * j, 4);
      return;
    }
    store_low_bytes(to, codes);
    left -= kLanes;
    to += left > 0 ? kLanes : kLanes + run * (rows - 1);
    left = left > 0 ? left : run;
  }
};

// body(column, lanes) for the numbers of a group; whole: no lane of it is padding.
template <bool kWhole, class Body>
void each_vector(const TileGroups& t, int64_t begin, Body&& body) {
  const int64_t end = kWhole ? begin + t.group : t.cols;
  for (int64_t i = begin; i < end; i += kLanes) body(i, kWhole ? kLanes : static_cast<int>(smaller(kLanes, end - i)));
}

template <bool kWhole, class Value>
Ints magnitudes(Value& value, const TileGroups& t, int64_t begin) {
  Ints largest = splat(int32_t{0});
  each_vector<kWhole>(t, begin, [&](int64_t i, int n) { largest = max(largest, abs_bits(value(i, n))); });
  return largest;
}

// Stores the codes of a group and what belongs to their sum.
template <bool kWhole, class Value>
void round_group(Value& value, const Int8Grid& grid, const TileGroups& t, const RowGroup& at) {
  CodesInRuns codes(t, at);
  Ints total = splat(int32_t{0});
  int64_t next = at.begin;
  each_vector<kWhole>(t, at.begin, [&](int64_t i, int n) {
    const Ints q = grid.codes(value(i, n));
    total = add(total, q);
    codes.put(q);
    next = i + kLanes;
  });
  for (; !kWhole && next < at.begin + t.group; next += kLanes) codes.put(splat(int32_t{0}));
  t.set_sum(at.place(t), grid.scale, sum(total));
}

// The scale of row `row` of a tile, and the exponents of its groups that begin in [begin, end). All of the row is
// looked at, for any of them.
template <class Value>
RowGrid choose_powers(Value& value, const TileGroups& t, int64_t row, int64_t begin, int64_t end) {
  Ints largest = splat(int32_t{0});
  RowGroup at{row, 0, 0};
  for (; at.begin < t.cols; at.begin += t.group, ++at.index) {
    const bool whole = at.begin + t.group <= t.cols;
    const Ints of_group = whole ? magnitudes<true>(value, t, at.begin) : magnitudes<false>(value, t, at.begin);
    largest = max(largest, of_group);
    if (at.begin >= begin && at.begin < end) t.out.exponent[at.place(t)] = max_lane(of_group);
  }
  const RowGrid grid(max_lane(largest));
  for (at = {row, begin / t.group, begin}; at.begin < end; at.begin += t.group, ++at.index) {
    int32_t& exponent = t.out.exponent[at.place(t)];
    exponent = grid.exponent(exponent);
  }
  if (begin == 0) t.out.row_scale[t.first + row] = grid.scale;
  return grid;
}

template <bool kWhole, class Value>
void quantize_group(Value& value, const RowGrid& powers, const TileGroups& t, const RowGroup& at) {
  if (t.out.has_row_scale()) return round_group<kWhole>(value, powers.at(t.out.exponent[at.place(t)]), t, at);
  const Int8Grid grid = int8_grid(max_lane(magnitudes<kWhole>(value, t, at.begin)));
  t.out.scale[at.place(t)] = grid.scale;
  round_group<kWhole>(value, grid, t, at);
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
