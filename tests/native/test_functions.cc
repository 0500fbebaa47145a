// Functions of single numbers on every instruction set: the same bits as scalar, and right at every size.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernel_testing.h"

namespace jiffy {
namespace {

using check::on_every_isa;

// Of both signs, over all exponents.
std::vector<float> floats_of_every_size() {
  std::vector<float> x;
  for (uint32_t bits = 0; bits < 0x7f800000; bits += 20011) {
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    x.insert(x.end(), {magnitude, -magnitude});
  }
  return x;
}

std::vector<float> gelu_on_every_isa(const std::vector<float>& x, bool tanh) {
  return on_every_isa("gelu", [&](const Kernels& kernels) {
    std::vector<float> out(x.size());
    kernels.gelu({x.data(), out.data(), tanh, 0, static_cast<int64_t>(x.size())});
    return out;
  });
}

TEST(gelu_is_right_in_both_tails) {
  const std::vector<float> x = floats_of_every_size(), y = gelu_on_every_isa(x, false);
  for (size_t i = 0; i < x.size(); ++i) {
    const double exact = 0.5 * x[i] * std::erfc(-x[i] / std::sqrt(2.0));
    CHECK(std::fabs(y[i] - exact) <= 20 * 0x1p-24 * std::fabs(exact) + 0x1p-126);
  }
}

TEST(gelu_by_tanh_is_right_in_both_tails) {
  const std::vector<float> x = floats_of_every_size(), y = gelu_on_every_isa(x, true);
  for (size_t i = 0; i < x.size(); ++i) {
    const double a = x[i], u = std::sqrt(2.0 / std::acos(-1.0)) * (a + 0.044715 * a * a * a);
    const double exact = a / (1.0 + std::exp(-2.0 * u));
    const double exponent = std::min(std::fabs(2.0 * u), 88.0);
    CHECK(std::fabs(y[i] - exact) <= (8.0 + 4.0 * exponent) * 0x1p-24 * std::fabs(exact) + 1e-37);
  }
}

TEST(gelu_of_what_is_not_finite) {
  for (const bool tanh : {false, true}) {
    const std::vector<float> y = gelu_on_every_isa({INFINITY, -INFINITY, NAN, -0.0f}, tanh);
    CHECK_EQ(y[0], INFINITY);
    CHECK(y[1] <= 0.0f && y[1] > -1e-37f);
    CHECK(std::isnan(y[2]));
    CHECK(y[3] == 0.0f && std::signbit(y[3]));
  }
}

TEST(ssru_is_right_at_every_size) {
  const std::vector<float> x = floats_of_every_size(), forget(x.rbegin(), x.rend());
  std::vector<float> before = forget;
  for (float& c : before) c *= 0.37f;
  for (const bool first : {false, true}) {
    const float* const state = first ? nullptr : before.data();
    const std::vector<float> both = on_every_isa("ssru", [&](const Kernels& kernels) {
      std::vector<float> out(2 * x.size());  // the state, then y
      const auto n = static_cast<int64_t>(x.size());
      kernels.ssru({forget.data(), x.data(), state, out.data(), out.data() + n, 0, n});
      return out;
    });
    for (size_t i = 0; i < x.size(); ++i) {
      if (std::fabs(forget[i]) > 80.0f) continue;  // where e^-x ends
      const double s = 1.0 / (1.0 + std::exp(-static_cast<double>(forget[i])));
      const double c = first ? 0.0 : before[i], exact = s * c + (1.0 - s) * x[i];
      CHECK(std::fabs(both[i] - exact) <= 0x1p-21 * (std::fabs(c) + std::fabs(x[i])));
      CHECK_EQ(both[x.size() + i], std::max(both[i], 0.0f));
    }
  }
}

std::vector<float> activation_on_every_isa(const std::vector<float>& x, Function function) {
  return on_every_isa("activation", [&](const Kernels& kernels) {
    std::vector<float> out(x.size());
    kernels.activation({x.data(), out.data(), function, 0, static_cast<int64_t>(x.size())});
    return out;
  });
}

TEST(activations_are_right_at_every_size) {
  const std::vector<float> x = floats_of_every_size();
  const std::vector<float> relu = activation_on_every_isa(x, Function::kRelu),
                           tanh = activation_on_every_isa(x, Function::kTanh),
                           silu = activation_on_every_isa(x, Function::kSilu);
  for (size_t i = 0; i < x.size(); ++i) {
    CHECK_EQ(relu[i], std::max(x[i], 0.0f));
    CHECK(std::fabs(tanh[i] - std::tanh(static_cast<double>(x[i]))) <= 0x1p-22);
    const double exact = x[i] / (1.0 + std::exp(-static_cast<double>(x[i])));
    CHECK(std::fabs(silu[i] - exact) <= 8 * 0x1p-24 * std::fabs(exact) + 6e-37);
  }
  for (const Function function : {Function::kRelu, Function::kTanh, Function::kSilu}) {
    const std::vector<float> y = activation_on_every_isa({NAN, INFINITY, -INFINITY}, function);
    CHECK(std::isnan(y[0]));
    CHECK_EQ(y[1], function == Function::kTanh ? 1.0f : INFINITY);
    CHECK(std::fabs(y[2] - (function == Function::kTanh ? -1.0f : 0.0f)) <= 6e-37f);
  }
}

}  // namespace
}  // namespace jiffy
