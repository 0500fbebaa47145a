// The matmul kernel on every instruction set: the same bits as scalar, and right against the slow double reference.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/cpu_info.h"
#include "kernel_testing.h"

namespace jiffy {
namespace {

using check::Activations;
using check::all_formats;
using check::normal;
using check::on_every_isa;
using check::random_weight;

// Against the exact product of the operands that the kernel has: what is left is float rounding, at most a few eps for
// each group, or for each product of floats. `q`: nullptr for f32.
void check_matmul_values(const Weight& weight, const Activations* q, const std::vector<float>& x, int64_t rows,
                         const std::vector<float>& y) {
  const PackedMatrix& m = weight.matrix();
  for (int64_t r = 0; r < rows; r += 3) {
    for (int64_t n = 0; n < m.rows; n += 5) {
      double exact = 0.0, magnitude = 0.0;
      for (int64_t k = 0; k < m.cols; ++k) {
        const double a = q != nullptr ? q->value(r, k) : x[static_cast<size_t>(r * m.cols + k)];
        const double product = reference_weight(m, n, k) * a;
        exact += product;
        magnitude += std::fabs(product);
      }
      // An asymmetric code is up to 2^bits times its distance from the mean: the sum of offset and code parts cancels.
      const double cancel = m.format.offset == Offset::kNone ? 1.0 : 32.0;
      const double roundings = m.format.quantized() ? 8.0 : 0.25 * static_cast<double>(m.cols);
      const double bound = 4.0 * 0x1p-24 * cancel * magnitude * roundings;
      const double got = y[static_cast<size_t>(r * m.rows + n)];
      if (!(std::fabs(got - exact) <= bound)) {
        check::report_failure(__FILE__, __LINE__,
                              m.format.name() + " at [" + std::to_string(r) + ", " + std::to_string(n) + "]: got " +
                                  check::show(got) + ", expected " + check::show(exact) + " within " +
                                  check::show(bound));
        return;
      }
    }
  }
}

struct Operands {
  const Weight& weight;
  const std::vector<float>& x;  // [rows, cols]
  int64_t rows;
};

std::vector<float> run_matmul(const Kernels& kernels, const Operands& o, bool native_pairs) {
  const PackedMatrix& m = o.weight.matrix();
  std::vector<float> y(static_cast<size_t>((o.rows > 0 ? o.rows : 1) * m.rows), 7.0f);
  MatmulArgs args{
      .weight = m, .up = {}, .x = {}, .x_f32 = o.x.data(), .rows = o.rows, .y = y.data(), .y_stride = m.rows};
  args.end = n_slabs(m.rows);
  args.native_pairs = native_pairs;
  args.far_prefetch = kernels.far_prefetch;
  const RowFormat format = activation_format(m.format);
  if (format.quantized()) {
    const Activations q(kernels, o.x, o.rows, m.cols, format);
    const size_t scratch = static_cast<size_t>(matmul_scratch_floats(q.view.padded())) * sizeof(float);
    Buffer memory = Buffer::allocate(scratch, "scratch");
    args.x = q.view;
    args.scratch = memory.as<float>();
    kernels.matmul(args);
  } else {
    kernels.matmul(args);
  }
  return y;
}

void check_values(const Operands& o, const std::vector<float>& y) {
  const PackedMatrix& m = o.weight.matrix();
  const RowFormat format = activation_format(m.format);
  if (!format.quantized()) return check_matmul_values(o.weight, nullptr, o.x, o.rows, y);
  const Activations q(select_kernels("scalar"), o.x, o.rows, m.cols, format);
  check_matmul_values(o.weight, &q, o.x, o.rows, y);
}

constexpr int64_t kRowCounts[] = {1, 2, 3, 4, 5, 7, 8, 12, 13, 25, 70};

TEST(matmul_gives_the_same_bits_everywhere_and_the_right_ones) {
  ThreadPool pool(2);
  for (const WeightFormat& format : all_formats()) {
    for (const auto& [n, k] :
         {std::pair<int64_t, int64_t>{48, 256}, {37, 100}, {16, 576}, {1, 1}, {33, 31}, {7, 1029}}) {
      const auto weight = random_weight(n, k, format, pool);
      for (const int64_t rows : kRowCounts) {
        const std::vector<float> x = normal(static_cast<size_t>(rows * k), static_cast<unsigned>(rows));
        const Operands operands{*weight, x, rows};
        check_values(operands, on_every_isa(("matmul " + format.name()).c_str(), [&](const Kernels& kernels) {
                       const bool own_order = format.bits == 16 && kernels.matrix_tiles;
                       return run_matmul(own_order ? select_kernels("scalar") : kernels, operands, false);
                     }));
      }
    }
  }
}

// Every code is the least or the largest that there is, in lines of one kind and mixed ones, and so is every
// activation: what is summed in narrow integers comes nearest to their ends.
TEST(matmul_is_exact_with_codes_at_both_ends) {
  ThreadPool pool(1);
  const int64_t n = 32, k = 256, rows = 13;
  for (const WeightFormat& format : all_formats()) {
    if (!format.quantized()) continue;
    const auto weight = random_weight(n, k, format, pool);
    uint8_t* const data = const_cast<uint8_t*>(weight->matrix().data);
    std::vector<float> x(static_cast<size_t>(rows * k));
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<int64_t>(i) / k % 3 == 2 && i % 2 == 1 ? -1.0f : 1.0f;
    for (const int kind : {0, 1, 2}) {
      for (int64_t slab = 0; slab < n_slabs(n); ++slab) {
        for (int64_t g = 0; g < n_groups(format, k); ++g) {
          uint8_t* const codes = data + slab * weight->matrix().slab_stride + codes_offset(format, g);
          for (int i = 0; i < lines_per_group(format) * kLineBytes; ++i) {
            codes[i] = kind == 0 || (kind == 2 && i % 3 == 0) ? 0 : 255;
          }
        }
      }
      const Operands operands{*weight, x, rows};
      check_values(operands, on_every_isa(("extreme codes, " + format.name()).c_str(), [&](const Kernels& kernels) {
                     return run_matmul(kernels, operands, false);
                   }));
    }
  }
}

// A scale of zero times a power of two is not quite zero in the kernels: its codes have to be. And what is not finite
// is so in its row alone.
TEST(integer_weights_of_nothing_give_nothing_and_keep_nan_in_its_row) {
  ThreadPool pool(1);
  const int64_t n = 37, k = 170, rows = 40;
  std::vector<float> w = normal(static_cast<size_t>(n * k), 8);
  std::fill_n(w.begin() + 5 * k, k, 0.0f);
  for (int64_t i = 0; i < n; ++i) std::fill_n(w.begin() + i * k + 64, 32, 0.0f);
  std::vector<float> x(static_cast<size_t>(rows * k), 0.0f);
  for (int64_t r = 0; r < rows; ++r) std::fill_n(x.begin() + r * k + 64, 32, std::ldexp(1.0f, static_cast<int>(r)));
  x[static_cast<size_t>(3 * k + 32)] = NAN;
  x[static_cast<size_t>(12 * k)] = INFINITY;
  for (const WeightFormat& format : all_formats()) {
    if (format.group != 32 || format.offset == Offset::kZero) continue;
    const auto weight = Weight::create("w", n, k, format);
    weight->pack_rows(0, n, reinterpret_cast<const uint8_t*>(w.data()), SourceType::kF32, pool);
    const std::vector<float> y = on_every_isa(("nothing, " + format.name()).c_str(), [&](const Kernels& kernels) {
      return run_matmul(kernels, {*weight, x, rows}, false);
    });
    for (int64_t i = 0; i < rows * n; ++i) {
      const bool finite = i / n != 3 && i / n != 12;
      CHECK_EQ(std::isfinite(y[static_cast<size_t>(i)]), finite);
      if (finite) CHECK_EQ(y[static_cast<size_t>(i)], 0.0f);
    }
  }
}

TEST(matmul_of_no_rows_does_nothing) {
  ThreadPool pool(1);
  for (const WeightFormat& format : all_formats()) {
    const auto weight = random_weight(20, 64, format, pool);
    for (const std::string& isa : supported_isas()) {
      const Kernels& kernels = select_kernels(isa);
      for (const float y : run_matmul(kernels, {*weight, {}, 0}, kernels.native_pairs)) CHECK_EQ(y, 7.0f);
    }
  }
}

// Such instructions, of pairs and of matrices of them, round in their own way, but no worse.
TEST(matmul_of_bf16_by_an_instruction_of_its_own_is_right) {
  if (!detect_cpu().avx512_bf16) SKIP("this CPU has no instruction for pairs of bf16");
  ThreadPool pool(2);
  for (const auto& [n, k] :
       {std::pair<int64_t, int64_t>{48, 256}, {37, 101}, {1, 1}, {33, 31}, {7, 1029}, {53, 1026}}) {
    const auto weight = random_weight(n, k, {.bits = 16, .group = 2}, pool);
    for (const int64_t rows : {1, 2, 5, 13, 16, 17, 70, 150}) {  // 150: more tiles of 16 than pass over a slab together
      const std::vector<float> x = normal(static_cast<size_t>(rows * k), static_cast<unsigned>(rows));
      const Operands operands{*weight, x, rows};
      for (const std::string& isa : supported_isas()) {
        const Kernels& kernels = select_kernels(isa);
        if (kernels.native_pairs || kernels.matrix_tiles) check_values(operands, run_matmul(kernels, operands, true));
      }
    }
  }
}

// A row's result must not depend on the rows beside it. 1100 cols are three segments of floats.
TEST(matmul_rows_are_independent_of_their_companions) {
  ThreadPool pool(1);
  const int64_t n = 40, rows = 150;
  for (const WeightFormat& format : all_formats()) {
    const int64_t k = format.quantized() ? 160 : 1101;
    const std::vector<float> x = normal(static_cast<size_t>(rows * k), 3);
    const auto weight = random_weight(n, k, format, pool);
    for (const std::string& isa : supported_isas()) {
      const Kernels& kernels = select_kernels(isa);
      for (const bool native_pairs : {false, kernels.native_pairs}) {
        const std::vector<float> together = run_matmul(kernels, {*weight, x, rows}, native_pairs);
        for (const int64_t count : {1, 2, 6, 11}) {
          const int64_t first = 9;
          const std::vector<float> part(x.begin() + first * k, x.begin() + (first + count) * k);
          const std::vector<float> alone = run_matmul(kernels, {*weight, part, count}, native_pairs);
          CHECK(std::memcmp(alone.data(), together.data() + first * n, alone.size() * sizeof(float)) == 0);
        }
      }
    }
  }
}

// In a padded pair, too; other rows stay as they are.
TEST(matmul_of_bf16_keeps_nan_and_infinity_in_their_row) {
  ThreadPool pool(1);
  const int64_t n = 20, k = 33, rows = 14;
  const auto weight = random_weight(n, k, {.bits = 16, .group = 2}, pool);
  std::vector<float> x = normal(static_cast<size_t>(rows * k), 5);
  x[static_cast<size_t>(3 * k + 32)] = NAN;
  x[static_cast<size_t>(12 * k)] = 3.4e38f;  // infinite as bf16
  for (const std::string& isa : supported_isas()) {
    const Kernels& kernels = select_kernels(isa);
    for (const bool native_pairs : {false, kernels.native_pairs}) {
      const std::vector<float> y = run_matmul(kernels, {*weight, x, rows}, native_pairs);
      for (int64_t i = 0; i < rows * n; ++i)
        CHECK_EQ(std::isfinite(y[static_cast<size_t>(i)]), i / n != 3 && i / n != 12);
    }
  }
}

void check_epilogues(const WeightFormat& format) {
  ThreadPool pool(1);
  const int64_t n = 37, k = 64, rows = 5;
  const auto [gate, up] = Weight::create_pair("gate", "up", n, k, format);
  const std::vector<float> w = normal(static_cast<size_t>(2 * n * k), 1, 0.1f),
                           x = normal(static_cast<size_t>(rows * k), 2);
  gate->pack_rows(0, n, reinterpret_cast<const uint8_t*>(w.data()), SourceType::kF32, pool);
  up->pack_rows(0, n, reinterpret_cast<const uint8_t*>(w.data() + n * k), SourceType::kF32, pool);
  const std::vector<float> bias = normal(static_cast<size_t>(n), 4),
                           residual = normal(static_cast<size_t>(rows * n), 5);
  for (const std::string& isa : supported_isas()) {
    const Kernels& kernels = select_kernels(isa);
    const Activations q(kernels, x, rows, k, activation_format(format));
    const auto run = [&](const PackedMatrix& m, const PackedMatrix& second, const float* b, const float* r) {
      std::vector<float> out(static_cast<size_t>(rows * n));
      kernels.matmul({.weight = m,
                      .up = second,
                      .x = q.view,
                      .rows = rows,
                      .y = out.data(),
                      .y_stride = n,
                      .bias = b,
                      .residual = r,
                      .end = n_slabs(n),
                      .native_pairs = kernels.native_pairs});
      return out;
    };
    const std::vector<float> g = run(gate->matrix(), {}, nullptr, nullptr), u = run(up->matrix(), {}, nullptr, nullptr);
    const std::vector<float> with_both = run(gate->matrix(), {}, bias.data(), residual.data());
    std::vector<float> product(g.size());
    kernels.silu_mul({g.data(), u.data(), product.data(), 0, rows * n});
    CHECK(product == run(gate->matrix(), up->matrix(), nullptr, nullptr));
    for (size_t i = 0; i < g.size(); ++i) {
      const double exact = g[i] / (1.0 + std::exp(-static_cast<double>(g[i]))) * u[i];
      CHECK(std::fabs(product[i] - exact) <= 8 * 0x1p-24 * std::fabs(exact) + 1e-30);
      CHECK_EQ(with_both[i], residual[i] + (g[i] + bias[i % static_cast<size_t>(n)]));
    }
  }
}

TEST(matmul_epilogues_add_bias_then_residual_and_multiply_gate_and_up) {
  check_epilogues({.bits = 4, .group = 32});
  check_epilogues({.bits = 16, .group = 2});
}

}  // namespace
}  // namespace jiffy
