// The matmul kernel on every instruction set: the same bits as scalar, and right against the slow double reference.
#include <cmath>
#include <cstring>
#include <vector>

#include "kernel_testing.h"

namespace jiffy {
namespace {

using check::Activations;
using check::all_formats;
using check::normal;
using check::on_every_isa;
using check::random_weight;

// Against the exact product of the quantised operands: what is left is float rounding, at most a few eps for each
// group.
void check_matmul_values(const Weight& weight, const Activations* q, const std::vector<float>& x, int64_t rows,
                         const std::vector<float>& y) {
  const PackedMatrix& m = weight.matrix();
  for (int64_t r = 0; r < rows; r += 3) {
    for (int64_t n = 0; n < m.rows; n += 5) {
      double exact = 0.0, magnitude = 0.0;
      for (int64_t k = 0; k < m.cols; ++k) {
        const double a = q != nullptr ? q->q(r, k) * q->scale(r, k) : x[static_cast<size_t>(r * m.cols + k)];
        const double product = reference_weight(m, n, k) * a;
        exact += product;
        magnitude += std::fabs(product);
      }
      // An asymmetric code is up to 2^bits times its distance from the mean: the sum of offset and code parts cancels.
      const double cancel = m.format.offset == Offset::kNone ? 1.0 : 32.0;
      const double bound =
          4.0 * 0x1p-24 * cancel * magnitude * (q != nullptr ? 8.0 : 0.25 * static_cast<double>(m.cols));
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

TEST(matmul_gives_the_same_bits_everywhere_and_the_right_ones) {
  ThreadPool pool(2);
  for (const WeightFormat& format : all_formats()) {
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{48, 256}, {37, 100}, {16, 576}, {1, 1}, {33, 31}}) {
      const auto weight = random_weight(n, k, format, pool);
      for (const int64_t rows : {1, 2, 3, 4, 5, 7, 8, 12, 13, 25, 70}) {
        const std::vector<float> x = normal(static_cast<size_t>(rows * k), static_cast<unsigned>(rows));
        const std::vector<float> y = on_every_isa(("matmul " + format.name()).c_str(), [&](const Kernels& kernels) {
          std::vector<float> out(static_cast<size_t>(rows * n), 7.0f);
          MatmulArgs args{.weight = weight->matrix(),
                          .up = {},
                          .x = {},
                          .x_f32 = x.data(),
                          .rows = rows,
                          .y = out.data(),
                          .y_stride = n};
          args.end = n_slabs(n);
          if (format.quantized()) {
            const Activations q(kernels, x, rows, k, format.group);
            args.x = q.view;
            kernels.matmul(args);
          } else {
            kernels.matmul(args);
          }
          return out;
        });
        if (format.quantized()) {
          const Activations q(select_kernels("scalar"), x, rows, k, format.group);
          check_matmul_values(*weight, &q, x, rows, y);
        } else {
          check_matmul_values(*weight, nullptr, x, rows, y);
        }
      }
    }
  }
}

// A row's result must not depend on the rows beside it.
TEST(matmul_rows_are_independent_of_their_companions) {
  ThreadPool pool(1);
  const int64_t n = 40, k = 160, rows = 70;
  const std::vector<float> x = normal(static_cast<size_t>(rows * k), 3);
  for (const WeightFormat& format : all_formats()) {
    const auto weight = random_weight(n, k, format, pool);
    const auto run = [&](const Kernels& kernels, int64_t first, int64_t count) {
      std::vector<float> out(static_cast<size_t>(count * n));
      const std::vector<float> part(x.begin() + first * k, x.begin() + (first + count) * k);
      MatmulArgs args{.weight = weight->matrix(),
                      .up = {},
                      .x = {},
                      .x_f32 = part.data(),
                      .rows = count,
                      .y = out.data(),
                      .y_stride = n};
      args.end = n_slabs(n);
      const Activations q(kernels, part, count, k, format.quantized() ? format.group : 32);
      args.x = q.view;
      kernels.matmul(args);
      return out;
    };
    for (const std::string& isa : supported_isas()) {
      const Kernels& kernels = select_kernels(isa);
      const std::vector<float> together = run(kernels, 0, rows);
      for (const int64_t count : {1, 2, 6, 11}) {
        const int64_t first = 9;
        const std::vector<float> alone = run(kernels, first, count);
        CHECK(std::memcmp(alone.data(), together.data() + first * n, alone.size() * sizeof(float)) == 0);
      }
    }
  }
}

TEST(matmul_epilogues_add_bias_then_residual_and_multiply_gate_and_up) {
  ThreadPool pool(1);
  const int64_t n = 37, k = 64, rows = 5;
  const auto [gate, up] = Weight::create_pair("gate", "up", n, k, {.bits = 4, .group = 32});
  const std::vector<float> w = normal(static_cast<size_t>(2 * n * k), 1, 0.1f),
                           x = normal(static_cast<size_t>(rows * k), 2);
  gate->pack_rows(0, n, reinterpret_cast<const uint8_t*>(w.data()), SourceType::kF32, pool);
  up->pack_rows(0, n, reinterpret_cast<const uint8_t*>(w.data() + n * k), SourceType::kF32, pool);
  const std::vector<float> bias = normal(static_cast<size_t>(n), 4),
                           residual = normal(static_cast<size_t>(rows * n), 5);
  for (const std::string& isa : supported_isas()) {
    const Kernels& kernels = select_kernels(isa);
    const Activations q(kernels, x, rows, k, 32);
    const auto run = [&](const PackedMatrix& m, const PackedMatrix& second, const float* b, const float* r) {
      std::vector<float> out(static_cast<size_t>(rows * n));
      kernels.matmul({m, second, q.view, nullptr, rows, out.data(), n, b, r, 0, n_slabs(n)});
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

}  // namespace
}  // namespace jiffy
