// The other kernels on every instruction set: the same bits as scalar, and right against slow double references.
#include <algorithm>
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
    for (const RowFormat format : {RowFormat{8, 32}, RowFormat{16, 2}}) {
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
    if (x[i] < -80.0f) continue;  // where e^-x ends
    const double exact = x[i] / (1.0 + std::exp(-static_cast<double>(x[i])));
    CHECK(std::fabs(silu[i] - exact) <= 8 * 0x1p-24 * std::fabs(exact) + 1e-37);
  }
  for (const Function function : {Function::kRelu, Function::kTanh, Function::kSilu}) {
    const std::vector<float> y = activation_on_every_isa({NAN, INFINITY}, function);
    CHECK(std::isnan(y[0]));
    CHECK_EQ(y[1], function == Function::kTanh ? 1.0f : INFINITY);
  }
}

TEST(pool_and_mul_are_right_on_odd_sizes) {
  for (const int64_t rows : {1, 2, 5}) {
    for (const int64_t dim : {1, 15, 16, 33}) {
      const std::vector<float> x = normal(static_cast<size_t>(rows * dim), 7);
      const auto pooled = [&](Pooling pooling) {
        return on_every_isa("pool", [&](const Kernels& kernels) {
          std::vector<float> y(static_cast<size_t>(dim));
          kernels.pool({x.data(), y.data(), rows, dim, pooling});
          return y;
        });
      };
      const std::vector<float> mean = pooled(Pooling::kMean), max = pooled(Pooling::kMax),
                               first = pooled(Pooling::kFirst), last = pooled(Pooling::kLast);
      for (int64_t d = 0; d < dim; ++d) {
        double sum = 0.0;
        float largest = x[static_cast<size_t>(d)];
        for (int64_t r = 0; r < rows; ++r) {
          const float value = x[static_cast<size_t>(r * dim + d)];
          sum += value;
          largest = std::max(largest, value);
        }
        const size_t i = static_cast<size_t>(d);
        CHECK(std::fabs(mean[i] - sum / static_cast<double>(rows)) < 1e-6);
        CHECK_EQ(max[i], largest);
        CHECK_EQ(first[i], x[i]);
        CHECK_EQ(last[i], x[static_cast<size_t>((rows - 1) * dim + d)]);
      }
      const std::vector<float> squares = on_every_isa("mul", [&](const Kernels& kernels) {
        std::vector<float> y(x.size());
        kernels.mul({x.data(), x.data(), y.data(), 0, rows * dim});
        return y;
      });
      for (size_t i = 0; i < x.size(); ++i) CHECK_EQ(squares[i], x[i] * x[i]);
    }
  }
}

TEST(a_pooled_nan_stays_one) {
  for (const std::string& isa : supported_isas()) {
    for (const Pooling pooling : {Pooling::kMean, Pooling::kMax}) {
      for (const size_t at : {0, 1, 2}) {
        std::vector<float> x(3, 1.0f), y(1);
        x[at] = NAN;
        select_kernels(isa).pool({x.data(), y.data(), 3, 1, pooling});
        CHECK(std::isnan(y[0]));
      }
    }
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

TEST(quantize_is_exact_to_half_a_step_and_keeps_nan_visible) {
  const int64_t cols = 70, rows = 13;
  std::vector<float> x = normal(static_cast<size_t>(rows * cols), 21);
  x[5] = 0.0f;
  std::fill_n(x.begin() + 2 * cols, cols, 0.0f);
  const Kernels& kernels = select_kernels("auto");
  const Activations q(kernels, x, rows, cols, {8, 64});
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      const double back = q.q(r, c) * q.scale(r, c);
      CHECK(std::abs(q.q(r, c)) <= 127);
      CHECK(std::fabs(back - x[static_cast<size_t>(r * cols + c)]) <= 0.5001 * q.scale(r, c));
    }
  }
  x[static_cast<size_t>(cols + 3)] = NAN;
  on_every_isa("quantize NaN", [&](const Kernels& k) {
    const Activations bad(k, x, rows, cols, {8, 64});
    CHECK(std::isnan(bad.scale(1, 3)));
    CHECK(!std::isnan(bad.scale(0, 3)));
    return std::vector<int8_t>(bad.view.data, bad.view.data + 1);
  });
}

TEST(quantize_to_bf16_rounds_to_the_nearest_and_pads_with_zero) {
  const int64_t cols = 71, rows = 13;
  std::vector<float> x = normal(static_cast<size_t>(rows * cols), 21);
  const std::vector<float> special{0x1.01p0f, 0x1.03p0f, -0x1.01p0f, 0x1.010002p0f, 0x1.fefffep127f, 0x1.ffp127f,
                                   -INFINITY, NAN,       -NAN,       0x1p-149f,     0x1.8p-134f,     -0.0f};
  std::copy(special.begin(), special.end(), x.begin() + 2 * cols + 11);
  for (const std::string& isa : supported_isas()) {
    const Activations q(select_kernels(isa), x, rows, cols, {16, 2});
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) CHECK_EQ(q.bf16(r, c), f32_to_bf16(x[static_cast<size_t>(r * cols + c)]));
      CHECK_EQ(q.bf16(r, cols), 0);
    }
  }
}

TEST(embedding_reads_back_what_was_packed) {
  ThreadPool pool(1);
  const std::vector<int32_t> ids{0, 36, 17, 16, 1};
  for (const WeightFormat& format : all_formats()) {
    const int64_t cols = 90;
    const auto table = random_weight(37, cols, format, pool);
    const std::vector<float> y = on_every_isa("embedding", [&](const Kernels& kernels) {
      std::vector<float> out(ids.size() * static_cast<size_t>(cols));
      kernels.embedding({table->matrix(), ids.data(), out.data(), 1.0f, 0, static_cast<int64_t>(ids.size())});
      return out;
    });
    for (size_t i = 0; i < ids.size(); ++i) {
      for (int64_t c = 0; c < cols; ++c) {
        CHECK_EQ(y[i * static_cast<size_t>(cols) + static_cast<size_t>(c)],
                 static_cast<float>(reference_weight(table->matrix(), ids[i], c)));
      }
    }
  }
}

TEST(rope_rotates_pairs) {
  const int64_t rows = 5, heads = 3, head_dim = 20, half = 10;
  const std::vector<float> x = normal(static_cast<size_t>(rows * heads * head_dim), 31);
  const std::vector<float> c = normal(static_cast<size_t>(8 * half), 32), s = normal(static_cast<size_t>(8 * half), 33);
  const std::vector<int32_t> positions{7, 0, 3, 3, 1};
  const std::vector<float> y = on_every_isa("rope", [&](const Kernels& kernels) {
    std::vector<float> out(x.size());
    kernels.rope({x.data(), out.data(), positions.data(), c.data(), s.data(), heads, head_dim, 0, rows});
    return out;
  });
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < half; ++i) {
        const size_t a = static_cast<size_t>((r * heads + h) * head_dim + i), b = a + static_cast<size_t>(half);
        const size_t t = static_cast<size_t>(positions[static_cast<size_t>(r)] * half + i);
        CHECK_EQ(y[a], x[a] * c[t] - x[b] * s[t]);
        CHECK_EQ(y[b], x[b] * c[t] + x[a] * s[t]);
      }
    }
  }
}

TEST(add_and_softmax_and_argmax) {
  for (const int64_t n : {1, 15, 16, 17, 1000}) {
    const std::vector<float> a = normal(static_cast<size_t>(n), 41), b = normal(static_cast<size_t>(n), 42);
    const std::vector<float> total = on_every_isa("add", [&](const Kernels& kernels) {
      std::vector<float> out(a.size());
      kernels.add({a.data(), b.data(), out.data(), 0, n});
      return out;
    });
    for (size_t i = 0; i < a.size(); ++i) CHECK_EQ(total[i], a[i] + b[i]);
    const auto largest = std::max_element(a.begin(), a.end());
    on_every_isa("argmax and softmax", [&](const Kernels& kernels) {
      int64_t index = -2;
      kernels.argmax({a.data(), n, &index});
      CHECK_EQ(index, largest - a.begin());
      std::vector<float> e(a.size() + 1);
      double total = 0.0, without_y = 0.0, sum = 0.0;
      kernels.softmax({a.data(), e.data(), n, *largest, 0.5f, &total});
      kernels.softmax({a.data(), nullptr, n, *largest, 0.5f, &without_y});
      CHECK_EQ(without_y, total);
      for (size_t i = 0; i < a.size(); ++i) {
        const double exact = std::exp((static_cast<double>(a[i]) - *largest) * 0.5);
        sum += exact;
        CHECK(std::fabs(e[i] - exact) <= 8 * 0x1p-24 * exact);
      }
      CHECK(std::fabs(total - sum) <= 8 * 0x1p-24 * sum);
      e.back() = static_cast<float>(total);
      return e;
    });
  }
}

TEST(argmax_tells_the_largest_of_each_block) {
  for (const int64_t n : {1, 16, 63, 64, 65, 200, 1000}) {
    const std::vector<float> x = normal(static_cast<size_t>(n), 43);
    on_every_isa("argmax of blocks", [&](const Kernels& kernels) {
      int64_t index = -2;
      std::vector<float> maxima(static_cast<size_t>((n + kMaxBlock - 1) / kMaxBlock));
      kernels.argmax({x.data(), n, &index, maxima.data()});
      for (size_t b = 0; b < maxima.size(); ++b) {
        const auto begin = x.begin() + static_cast<int64_t>(b) * kMaxBlock;
        CHECK_EQ(maxima[b], *std::max_element(begin, std::min(begin + kMaxBlock, x.end())));
      }
      return maxima;
    });
  }
}

TEST(argmax_refuses_what_is_not_finite_and_takes_the_first_of_equals) {
  for (const std::string& isa : supported_isas()) {
    const Kernels& kernels = select_kernels(isa);
    int64_t index = 0;
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      std::vector<float> x(40, 1.0f);
      x[33] = bad;
      kernels.argmax({x.data(), 40, &index});
      CHECK_EQ(index, -1);
    }
    const std::vector<float> equal(40, -2.0f);
    kernels.argmax({equal.data(), 40, &index});
    CHECK_EQ(index, 0);
  }
}

TEST(probes_count_their_work_and_read_every_line) {
  std::vector<uint8_t> data(64 * 16 + 64, 0);
  uint8_t* aligned = data.data() + (64 - reinterpret_cast<uintptr_t>(data.data()) % 64) % 64;
  for (int i = 0; i < 16; ++i) aligned[64 * i] = static_cast<uint8_t>(i + 1);
  for (const std::string& isa : supported_isas()) {
    const Kernels& kernels = select_kernels(isa);
    for (const int streams : {1, 2, 4}) {
      int32_t sum = 0;
      kernels.read_probe({aligned, 64 * 16, streams, &sum});
      CHECK_EQ(sum, 136);
    }
    int64_t operations = 0;
    kernels.peak_probe({Arithmetic::kInt8, 10, &operations});
    CHECK(operations > 0);
    kernels.peak_probe({Arithmetic::kF32, 10, &operations});
    CHECK(operations > 0);
  }
}

TEST(an_unknown_instruction_set_is_an_error_that_lists_the_others) {
  CHECK_THROWS(ErrorKind::kParameter, select_kernels("avx1024"));
  CHECK_EQ(std::string(select_kernels("auto").isa), supported_isas().back());
}

}  // namespace
}  // namespace jiffy
