// What the tests of kernels share: random data, every instruction set against the first, packed matrices.
#pragma once

#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "check.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/select.h"
#include "quant/reference.h"
#include "quant/weight.h"
#include "support.h"

namespace jiffy::check {

inline std::vector<float> normal(size_t n, unsigned seed, float scale = 1.0f) { return normal_floats(n, seed, scale); }

// Runs `compute` on every set and checks that all give the bytes of the first, which it returns.
template <class Compute>
auto on_every_isa(const char* what, Compute&& compute) {
  const std::vector<std::string> isas = supported_isas();
  const auto first = compute(select_kernels(isas[0]));
  for (size_t i = 1; i < isas.size(); ++i) {
    const auto other = compute(select_kernels(isas[i]));
    const bool equal =
        other.size() == first.size() && std::memcmp(other.data(), first.data(), first.size() * sizeof(first[0])) == 0;
    if (!equal) report_failure(__FILE__, __LINE__, std::string(what) + ": " + isas[i] + " differs from " + isas[0]);
  }
  return first;
}

// Every format that a matrix can have: bits, groups, offsets and header types.
std::vector<WeightFormat> all_formats();

// A packed random matrix; for offset "zero" the offsets are small integers, put in by hand.
std::shared_ptr<Weight> random_weight(int64_t rows, int64_t cols, const WeightFormat& format, ThreadPool& pool);

struct Activations {
  std::vector<uint8_t> memory;
  ActivationView view;

  Activations(const Kernels& kernels, const std::vector<float>& x, int64_t rows, int64_t cols, const RowFormat& format)
      : memory(static_cast<size_t>(rows * activation_row_bytes(cols, format))),
        view(activation_view(memory.data(), rows, cols, format, kernels.wants_wide_runs(format, rows))) {
    kernels.quantize({x.data(), view, {0, view.tiles().count(), 0, view.cols}});
  }
  // The number that the kernels multiply with.
  double value(int64_t row, int64_t col) const {
    return view.bits == 16 ? bf16_to_f32(bf16(row, col)) : q(row, col) * scale(row, col);
  }
  uint16_t bf16(int64_t row, int64_t col) const {
    const RowTile tile = tile_of(row);
    uint16_t bits;
    std::memcpy(&bits, view.place(tile, row - tile.first, 2 * col), 2);
    return bits;
  }
  int q(int64_t row, int64_t col) const {
    const RowTile tile = tile_of(row);
    return *view.place(tile, row - tile.first, col);
  }
  double scale(int64_t row, int64_t col) const {
    const auto [first, rows] = tile_of(row);
    const int64_t at = first * view.groups() + col / view.group * rows + row - first;
    if (!view.has_row_scale()) return view.scale[at];
    return std::ldexp(static_cast<double>(view.row_scale[row]), view.exponent[at] >> 23);
  }

 private:
  RowTile tile_of(int64_t row) const {
    int64_t tile = 0;
    while (view.tiles().begin(tile + 1) <= row) ++tile;
    return view.tiles().tile(tile);
  }
};

}  // namespace jiffy::check
