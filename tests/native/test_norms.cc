// Norms on every instruction set: the same bits as scalar, and right against slow double references.
#include <cmath>
#include <vector>

#include "kernel_testing.h"

namespace jiffy {
namespace {

using check::Activations;
using check::normal;
using check::on_every_isa;

TEST(rms_norm_and_quantize_agree_fused_and_apart) {
  for (const int64_t dim : {1, 15, 64, 100, 576}) {
    const int64_t rows = 14;
    const std::vector<float> x = normal(static_cast<size_t>(rows * dim), 11), w = normal(static_cast<size_t>(dim), 12);
    const std::vector<float> y = on_every_isa("rms_norm", [&](const Kernels& kernels) {
      std::vector<float> out(x.size());
      kernels.rms_norm({x.data(), w.data(), out.data(), dim, 1e-5f, 0, rows});
      return out;
    });
    for (int64_t r = 0; r < rows; ++r) {
      double squares = 0.0;
      for (int64_t i = 0; i < dim; ++i)
        squares += std::pow(static_cast<double>(x[static_cast<size_t>(r * dim + i)]), 2);
      const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(dim) + 1e-5);
      for (int64_t i = 0; i < dim; ++i) {
        const size_t at = static_cast<size_t>(r * dim + i);
        const double exact = x[at] * inverse * w[static_cast<size_t>(i)];
        CHECK(std::fabs(y[at] - exact) <= 16 * 0x1p-24 * std::fabs(exact));
      }
    }
    for (const RowFormat format : {RowFormat{8, 32}, RowFormat{8, 32, true}, RowFormat{8, 128}, RowFormat{16, 2}}) {
      on_every_isa("rms_norm_quantize", [&](const Kernels& kernels) {
        const Activations apart(kernels, y, rows, dim, format);
        std::vector<uint8_t> memory(apart.memory.size());
        const ActivationView view = activation_view(memory.data(), rows, dim, format, apart.view.wide_runs);
        kernels.rms_norm_quantize({x.data(), w.data(), view, 1e-5f, {0, view.tiles().count(), 0, view.cols}});
        CHECK(memory == apart.memory);
        std::vector<double> values;  // sets order them differently
        for (int64_t i = 0; i < rows * dim; ++i) values.push_back(apart.value(i / dim, i % dim));
        return values;
      });
    }
  }
}

// The mean of dim numbers is off by (dim / 64 + 8) eps of their mean size, which the division by a small deviation
// enlarges; all else is relative to the result.
void check_layer_norm(const std::vector<float>& x, const std::vector<float>& w, const float* b,
                      const std::vector<float>& y, int64_t dim) {
  const double eps = 0x1p-24 * (static_cast<double>(dim) / 64 + 16);
  for (size_t row = 0; row < x.size(); row += static_cast<size_t>(dim)) {
    double mean = 0.0, size = 0.0, variance = 0.0;
    for (size_t i = 0; i < static_cast<size_t>(dim); ++i) {
      mean += x[row + i] / static_cast<double>(dim);
      size += std::fabs(x[row + i]) / static_cast<double>(dim);
    }
    for (size_t i = 0; i < static_cast<size_t>(dim); ++i)
      variance += std::pow(x[row + i] - mean, 2) / static_cast<double>(dim);
    const double inverse = 1.0 / std::sqrt(variance + static_cast<double>(1e-5f));
    for (size_t i = 0; i < static_cast<size_t>(dim); ++i) {
      const double scaled = (x[row + i] - mean) * inverse * w[i], offset = b != nullptr ? b[i] : 0.0;
      const double bound = eps * (size * inverse * std::fabs(w[i]) + std::fabs(scaled) + std::fabs(scaled + offset));
      CHECK(std::fabs(y[row + i] - (scaled + offset)) <= bound);
    }
  }
}

TEST(layer_norm_is_right_far_from_zero_too) {
  for (const int64_t dim : {1, 15, 16, 64, 100, 576}) {
    const int64_t rows = 3;
    const std::vector<float> w = normal(static_cast<size_t>(dim), 12), b = normal(static_cast<size_t>(dim), 13);
    for (const float mean : {0.0f, 1000.0f}) {
      std::vector<float> x = normal(static_cast<size_t>(rows * dim), 11);
      for (float& v : x) v += mean;
      for (const float* bias : {b.data(), static_cast<const float*>(nullptr)}) {
        const std::vector<float> y = on_every_isa("layer_norm", [&](const Kernels& kernels) {
          std::vector<float> out(x.size());
          kernels.layer_norm({x.data(), w.data(), bias, out.data(), dim, 1e-5f, 0, rows});
          return out;
        });
        check_layer_norm(x, w, bias, y, dim);
      }
    }
  }
}

TEST(norms_of_what_overflows_are_nan) {
  const std::vector<float> ones(20, 1.0f);
  for (const std::string& isa : supported_isas()) {
    for (const float bad : {3e38f, INFINITY, NAN}) {
      std::vector<float> x(20, 1.0f), y(20);
      x[17] = bad;
      select_kernels(isa).layer_norm({x.data(), ones.data(), nullptr, y.data(), 20, 1e-5f, 0, 1});
      CHECK(std::isnan(y[0]) && std::isnan(y[19]));
      select_kernels(isa).rms_norm({x.data(), ones.data(), y.data(), 20, 1e-5f, 0, 1});
      CHECK(std::isnan(y[0]) && std::isnan(y[19]));
    }
  }
}

}  // namespace
}  // namespace jiffy
