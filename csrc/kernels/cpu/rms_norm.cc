// y[r,:] = x[r,:] / sqrt(mean(x[r,:]^2) + eps) * w    x, y: [rows, dim]  w: [dim]
// and activation quantisation, alone or fused with the norm.
#include "kernels/cpu/int8_grid.h"
#include "kernels/cpu/kernels.h"

namespace jiffy::JIFFY_ISA {
namespace {

float inverse_rms(const float* x, int64_t dim, float eps) {
  const float squares = sum_row(dim, [=](Floats chain, int64_t i, int n) {
    const Floats v = load_first(x + i, n);
    return fma(v, v, chain);
  });
  return inverse_root_of_mean(squares, dim, eps);
}

struct Plain {
  const float* x;
  Floats operator()(int64_t i, int n) const { return load_first(x + i, n); }
};
struct Normalised {
  const float* x;
  const float* weight;
  Floats inverse;
  Floats operator()(int64_t i, int n) const {
    return mul(mul(load_first(x + i, n), inverse), load_first(weight + i, n));
  }
};

struct TileOfRow {
  int64_t first, rows;
};
TileOfRow tile_of(const ActivationView& out, int64_t row) {
  int64_t tile = row * n_row_tiles(out.rows) / out.rows;
  while (row_tile_begin(out.rows, tile + 1) <= row) ++tile;
  const int64_t first = row_tile_begin(out.rows, tile);
  return {first, row_tile_begin(out.rows, tile + 1) - first};
}

// Rounds one row whose values come from `value(col, lanes)` to bf16.
template <class Value>
void round_row(const Value& value, const ActivationView& out, int64_t row) {
  const auto [first, tile_rows] = tile_of(out, row);
  int8_t* data = out.data + first * out.row_bytes() + (row - first) * 4;
  for (int64_t i = 0; i < out.cols; i += kLanes) {
    uint16_t rounded[kLanes];
    store_bf16(rounded, value(i, static_cast<int>(smaller(kLanes, out.cols - i))));
    const int64_t pairs = smaller(kLanes / 2, (out.padded() - i) / 2);
    for (int64_t j = 0; j < pairs; ++j) __builtin_memcpy(data + (i / 2 + j) * tile_rows * 4, rounded + 2 * j, 4);
  }
}

// Quantises one row whose values come from `value(col, lanes)` in groups.
template <class Value>
void quantize_row(const Value& value, const ActivationView& out, int64_t row) {
  if (out.bits == 16) return round_row(value, out, row);
  const auto [first, tile_rows] = tile_of(out, row);
  int8_t* data = out.data + first * out.row_bytes() + (row - first) * 4;
  const int64_t groups = out.groups();
  for (int64_t g = 0; g < groups; ++g) {
    Ints magnitudes = splat(int32_t{0});
    for (int64_t i = g * out.group; i < (g + 1) * out.group; i += kLanes) {
      const int n = static_cast<int>(smaller(kLanes, out.cols - i));
      if (n > 0) magnitudes = max(magnitudes, abs_bits(value(i, n)));
    }
    const Int8Grid grid = int8_grid(magnitudes);
    Ints total = splat(int32_t{0});
    for (int64_t i = g * out.group; i < (g + 1) * out.group; i += kLanes) {
      const int n = static_cast<int>(smaller(kLanes, out.cols - i));
      const Ints q = grid.codes(n > 0 ? value(i, n) : zeros());
      total = add(total, q);
      alignas(16) int8_t bytes[kLanes];
      store_low_bytes(bytes, q);
      for (int j = 0; j < 4; ++j) __builtin_memcpy(data + (i / 4 + j) * tile_rows * 4, bytes + 4 * j, 4);
    }
    const int32_t q_sum = sum(total);
    const int64_t at = first * groups + g * tile_rows + (row - first);
    out.scale[at] = grid.scale;
    out.correction[at] = -8 * q_sum;
    out.scaled_sum[at] = grid.scale * static_cast<float>(q_sum);
  }
}

}  // namespace

void rms_norm(const RmsNormArgs& a) {
  for (int64_t r = a.begin; r < a.end; ++r) {
    const float* x = a.x + r * a.dim;
    const Normalised value{x, a.weight, splat(inverse_rms(x, a.dim, a.eps))};
    for (int64_t i = 0; i < a.dim; i += kLanes) {
      const int n = static_cast<int>(smaller(kLanes, a.dim - i));
      store_first(a.y + r * a.dim + i, value(i, n), n);
    }
  }
}

void quantize(const QuantizeArgs& a) {
  for (int64_t r = a.begin; r < a.end; ++r) quantize_row(Plain{a.x + r * a.out.cols}, a.out, r);
}

void rms_norm_quantize(const RmsNormQuantizeArgs& a) {
  for (int64_t r = a.begin; r < a.end; ++r) {
    const float* x = a.x + r * a.out.cols;
    quantize_row(Normalised{x, a.weight, splat(inverse_rms(x, a.out.cols, a.eps))}, a.out, r);
  }
}

}  // namespace jiffy::JIFFY_ISA
