#include "quant/activations.h"

#include <algorithm>
#include <cstring>

namespace jiffy {
namespace {

// A row and the tile that it is in.
struct Placed {
  const ActivationView& view;
  RowTile tile;
  int64_t row;  // of the tile

  Placed(const ActivationView& view, int64_t row) : view(view), tile(view.tiles().of(row)), row(row - tile.first) {}
  int8_t* data(int64_t at) const { return view.place(tile, row, at); }
  int64_t group(int64_t g) const { return tile.first * view.groups() + g * tile.rows + row; }
};

void copy_data(const Placed& from, const Placed& to) {
  const int64_t bytes = from.view.row_bytes(), run = std::min(from.view.run(), to.view.run());
  if (!from.view.wide_runs && !to.view.wide_runs) {  // every 4 bytes at a constant distance
    const int8_t* source = from.data(0);
    int8_t* target = to.data(0);
    for (int64_t i = 0; i < bytes / 4; ++i) {
      std::memcpy(target + 4 * i * to.tile.rows, source + 4 * i * from.tile.rows, 4);
    }
    return;
  }
  for (int64_t at = 0; at < bytes; at += run) {
    std::memcpy(to.data(at), from.data(at), static_cast<size_t>(std::min(run, bytes - at)));
  }
}

}  // namespace

std::string RowFormat::name() const {
  return bits == 32 ? "f32" : bits == 16 ? "bf16" : "q8(" + std::to_string(group) + (powers ? ", powers)" : ")");
}

void copy_rows(const ActivationView& from, int64_t first, const ActivationView& to) {
  const int64_t groups = from.bits == 8 ? from.groups() : 0;
  for (int64_t row = 0; row < to.rows; ++row) {
    const Placed source(from, first + row), target(to, row);
    copy_data(source, target);
    if (to.has_row_scale()) to.row_scale[row] = from.row_scale[first + row];
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t here = source.group(g), there = target.group(g);
      if (to.has_row_scale()) {
        to.exponent[there] = from.exponent[here];
      } else {
        to.scale[there] = from.scale[here];
      }
      to.correction[there] = from.correction[here];
      to.scaled_sum[there] = from.scaled_sum[here];
    }
  }
}

}  // namespace jiffy
