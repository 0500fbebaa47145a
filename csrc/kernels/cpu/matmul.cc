// y[r,n] = sum_k x[r,k] * w[n,k]    x: rows as the weights want them  w: P16
//
// Loops: block of rows that stays in L2 -> two slabs of 16 outputs -> tile of at most 12 rows -> k. The slabs stay in
// L1 or L2 while the block's tiles pass over them, so weights come from memory once. Each output has one order of
// addition, whatever the number of rows or threads.
#include "kernels/cpu/activated.h"
#include "kernels/cpu/matmul_tile.h"

namespace jiffy::JIFFY_ISA {
namespace {

Floats finished(Finish finish, Floats x) {
  switch (finish) {
    case Finish::kGelu:
      return gelu(x);
    case Finish::kGeluTanh:
      return gelu_tanh(x);
    case Finish::kRelu:
      return activated(Function::kRelu, x);
    case Finish::kTanh:
      return activated(Function::kTanh, x);
    case Finish::kSilu:
      return activated(Function::kSilu, x);
    case Finish::kNone:
      break;
  }
  return x;
}

void finish_row(const MatmulArgs& p, int64_t row, int64_t slab, Floats value) {
  const int64_t n = slab * kSlabRows;
  const int lanes = static_cast<int>(smaller(kLanes, p.weight.rows - n));
  const int64_t at = row * p.y_stride + n;
  if (p.bias != nullptr) value = add(value, load_first(p.bias + n, lanes));
  value = finished(p.finish, value);
  if (p.residual != nullptr) value = add(load_first(p.residual + at, lanes), value);
  store_first(p.y + at, value, lanes);
}

// What most tiles need, without a question for each row: all lanes of a slab, and a usual activation or a residual or
// neither.
bool finish_whole_tile(const MatmulArgs& p, int64_t slab, int64_t first, int64_t rows, const float* acc,
                       const float* up) {
  const int64_t n = slab * kSlabRows, at = first * p.y_stride + n;
  const bool plain = p.finish == Finish::kNone;
  if (up != nullptr || n + kLanes > p.weight.rows) return false;
  if (!plain && (p.residual != nullptr || p.finish == Finish::kGeluTanh || p.finish == Finish::kTanh)) return false;
  const bool biased = p.bias != nullptr;
  const Floats bias = biased ? load(p.bias + n) : zeros();
  const auto sum_of = [&](int64_t r) {
    const Floats sum = load(acc + r * kLanes);
    return biased ? add(sum, bias) : sum;
  };
  const auto store_rows = [&](auto&& make) {
    for (int64_t r = 0; r < rows; ++r) store(p.y + at + r * p.y_stride, make(sum_of(r), r));
  };
  if (p.finish == Finish::kGelu) {
    store_rows([](Floats value, int64_t) { return gelu(value); });
  } else if (p.finish == Finish::kSilu) {
    store_rows([](Floats value, int64_t) { return activated(Function::kSilu, value); });
  } else if (p.finish == Finish::kRelu) {
    store_rows([](Floats value, int64_t) { return activated(Function::kRelu, value); });
  } else if (p.residual != nullptr) {
    store_rows([&](Floats value, int64_t r) { return add(load(p.residual + at + r * p.y_stride), value); });
  } else {
    store_rows([](Floats value, int64_t) { return value; });
  }
  return true;
}

}  // namespace

void finish_tile(const MatmulArgs& p, int64_t slab, int64_t first, int64_t rows, const float* acc, const float* up) {
  if (finish_whole_tile(p, slab, first, rows, acc, up)) return;
  for (int64_t r = 0; r < rows; ++r) {
    Floats value = load(acc + r * kLanes);
    if (up != nullptr) value = silu_mul(value, load(up + r * kLanes));
    finish_row(p, first + r, slab, value);
  }
}

namespace {

void finish_slabs(const MatmulArgs& p, int64_t slab, int64_t count, RowTile tile, const Sums& sums) {
  if (p.up.data != nullptr) return finish_tile(p, slab, tile.first, tile.rows, sums[0], sums[1]);
  for (int64_t s = 0; s < count; ++s) finish_tile(p, slab + s, tile.first, tile.rows, sums[s], nullptr);
}

// Block of rows that stays in L2 -> two slabs, of one matrix or one of each of two -> tile.
void multiply_tiles(const MatmulArgs& p, int64_t row_bytes, MultiplyTile& multiply) {
  const bool gated = p.up.data != nullptr;
  const RowTiles tiles{p.rows};
  const int64_t together = tiles_together(tiles.count(), kMaxTileRows * row_bytes);
  alignas(64) Sums sums;
  for (int64_t block = 0; block < tiles.count(); block += together) {
    const int64_t end = smaller(block + together, tiles.count());
    for (int64_t slab = p.begin; slab < p.end; slab += gated ? 1 : 2) {
      const int64_t count = gated || slab + 1 < p.end ? 2 : 1;
      SlabPair slabs{{p.weight.slab(slab), gated ? p.up.slab(slab) : p.weight.slab(slab + count - 1)}, count, false};
      for (int64_t t = block; t < end; ++t, slabs.warm = true) {
        prefetch_results(p, slab, gated ? 1 : count, tiles.tile(t));
        multiply(p, slabs, tiles.tile(t), sums);
        finish_slabs(p, slab, count, tiles.tile(t), sums);
      }
    }
  }
}

}  // namespace

void matmul(const MatmulArgs& p) {
  if (p.rows == 0) return;  // of a step that wants no outputs
#ifdef JIFFY_MATRIX_TILES
  if (p.x.wide_runs) return p.x.bits == 16 ? matmul_by_pair_tiles(p) : matmul_by_matrix_tiles(p);
#endif
  if (p.weight.format.bits == 32) return multiply_tiles(p, p.weight.cols * 4, f32_tile);
  multiply_tiles(p, p.x.row_bytes(), p.weight.format.bits == 16 ? bf16_tile : integer_tile);
}

}  // namespace jiffy::JIFFY_ISA
