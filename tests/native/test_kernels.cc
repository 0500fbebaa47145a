// The other kernels on every instruction set: the same bits as scalar, and right against slow double references.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernel_testing.h"

namespace jiffy {
namespace {

using check::Activations;
using check::all_formats;
using check::normal;
using check::on_every_isa;
using check::random_weight;

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

TEST(the_mean_of_many_rows_is_as_right_as_that_of_few) {
  const int64_t rows = 1'000'000;
  std::vector<float> x(static_cast<size_t>(rows));
  double sum = 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = 0.1f + 0.01f * static_cast<float>(i % 7);
    sum += x[i];
  }
  const double exact = sum / static_cast<double>(rows);
  const std::vector<float> mean = on_every_isa("pool", [&](const Kernels& kernels) {
    std::vector<float> y(1);
    kernels.pool({x.data(), y.data(), rows, 1, Pooling::kMean});
    return y;
  });
  CHECK(std::fabs(mean[0] - exact) <= 150 * 0x1p-24 * exact);
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

TEST(quantize_is_exact_to_half_a_step_and_keeps_nan_visible) {
  const int64_t cols = 70, rows = 13;
  std::vector<float> x = normal(static_cast<size_t>(rows * cols), 21);
  x[5] = 0.0f;
  std::fill_n(x.begin() + 2 * cols, cols, 0.0f);
  const Kernels& kernels = select_kernels("auto");
  const RowFormat formats[] = {{8, 32}, {8, 32, true}, {8, 64}, {8, 128}};
  for (const RowFormat& format : formats) {
    const Activations q(kernels, x, rows, cols, format);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        const double back = q.q(r, c) * q.scale(r, c);
        CHECK(std::abs(q.q(r, c)) <= 127);
        CHECK(std::fabs(back - x[static_cast<size_t>(r * cols + c)]) <= 0.5001 * q.scale(r, c));
      }
    }
  }
  x[static_cast<size_t>(cols + 3)] = NAN;
  x[static_cast<size_t>(4 * cols + 33)] = -INFINITY;
  for (const RowFormat& format : formats) {
    on_every_isa("quantize NaN", [&](const Kernels& k) {
      const Activations bad(k, x, rows, cols, format);
      CHECK(std::isnan(bad.scale(1, 3)));
      CHECK(std::isinf(bad.scale(4, 33)));
      CHECK(std::isfinite(bad.scale(0, 3)));
      return bad.memory;
    });
  }
}

// Rows from nothing to nearly infinity, whose groups are up to 2^40 times smaller.
TEST(groups_of_32_take_the_finest_power_that_fits) {
  const int64_t cols = 150, groups = 5, rows = 26;
  std::vector<float> x = normal(static_cast<size_t>(rows * cols), 5);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      float& value = x[static_cast<size_t>(r * cols + c)];
      const bool nothing = r % 5 == 3 && c / 32 == 2;
      const int finer = static_cast<int>(r % 13 * (c / 32)) % 41, of_row = static_cast<int>(r * 15) % 210;
      value = nothing ? 0.0f : std::ldexp(value, 122 - finer - of_row);
    }
  }
  std::fill_n(x.begin() + 7 * cols, cols, 0.0f);
  std::fill_n(x.begin() + 8 * cols, cols, 0x1p-140f);
  on_every_isa("quantize by powers", [&](const Kernels& kernels) {
    const Activations q(kernels, x, rows, cols, {8, 32, true});
    for (int64_t r = 0; r < rows; ++r) {
      const float* const row = x.data() + r * cols;
      const auto largest = [&](int64_t begin, int64_t end) {
        double most = 0.0;
        for (int64_t c = begin; c < std::min(end, cols); ++c) most = std::fmax(most, std::fabs(row[c]));
        return most;
      };
      const double most = largest(0, cols);
      for (int64_t g = 0; g < groups; ++g) {
        double finest = most;
        for (int i = 0; i < 20 && finest / 2 >= largest(32 * g, 32 * g + 32); ++i) finest /= 2;
        if (most >= 0x1p-90) CHECK(std::fabs(q.scale(r, 32 * g) * 127 - finest) <= finest * 1e-6);
        for (int64_t c = 32 * g; c < std::min(32 * g + 32, cols); ++c) {
          const double expected = most >= 0x1p-90 ? row[c] : 0.0;
          CHECK(std::fabs(q.value(r, c) - expected) <= 0.5001 * finest / 127);
        }
      }
    }
    return q.memory;
  });
}

TEST(long_groups_are_exact_whatever_the_number_of_rows) {
  const int64_t cols = 300;  // two whole groups and a part
  std::vector<float> x = normal(static_cast<size_t>(13 * cols), 23);
  std::fill_n(x.begin() + 6 * cols, 128, 0.0f);
  x[130] = NAN;
  for (int64_t rows = 1; rows <= 13; ++rows) {
    on_every_isa("quantize in groups of 128", [&](const Kernels& kernels) {
      const Activations q(kernels, x, rows, cols, {8, 128});
      for (int64_t r = 0; r < rows; ++r) {
        const std::vector<float> row(x.begin() + r * cols, x.begin() + (r + 1) * cols);
        const Activations alone(kernels, row, 1, cols, {8, 128});
        for (int64_t c = 0; c < cols; ++c) {
          const bool bad = r == 0 && c / 128 == 1;
          CHECK_EQ(std::isnan(q.scale(r, c)), bad);
          CHECK_EQ(q.q(r, c), alone.q(0, c));
          CHECK(bad || q.scale(r, c) == alone.scale(0, c));
          const double error = q.q(r, c) * q.scale(r, c) - row[static_cast<size_t>(c)];
          CHECK(bad || std::fabs(error) <= 0.5001 * q.scale(r, c));
        }
      }
      return q.memory;
    });
  }
}

TEST(rotated_rows_quantise_as_what_a_hadamard_matrix_makes_of_them) {
  const int64_t cols = 384, rows = 13;
  std::vector<float> x = normal(static_cast<size_t>(rows * cols), 22);
  std::vector<float> rotated(x.size());
  for (size_t at = 0; at < x.size(); ++at) {  // as a butterfly adds: by pairs, the highest bit of the place last
    const size_t begin = at / 128 * 128 + at % 16, place = at % 128 / 16;
    const auto sum = [&](const auto& self, size_t first, size_t n) -> float {
      if (n == 1) return x[begin + 16 * first];
      const float a = self(self, first, n / 2), b = self(self, first + n / 2, n / 2);
      return (place & n / 2) != 0 ? a - b : a + b;
    };
    rotated[at] = sum(sum, 0, 8);
  }
  for (const RowFormat& format : {RowFormat{8, 32}, RowFormat{8, 32, true}, RowFormat{8, 64}, RowFormat{8, 128}}) {
    on_every_isa("rotate_quantize", [&](const Kernels& kernels) {
      const Activations expected(kernels, rotated, rows, cols, format);
      std::vector<uint8_t> memory(expected.memory.size());
      const ActivationView view = activation_view(memory.data(), rows, cols, format, expected.view.wide_runs);
      kernels.rotate_quantize({x.data(), view, {0, view.tiles().count(), 0, 128}});
      kernels.rotate_quantize({x.data(), view, {0, view.tiles().count(), 128, cols}});
      CHECK(memory == expected.memory);
      return memory;
    });
  }
}

TEST(quantize_to_bf16_rounds_to_the_nearest_and_pads_with_zero) {
  const int64_t cols = 199;
  const std::vector<float> special{0x1.01p0f, 0x1.03p0f, -0x1.01p0f, 0x1.010002p0f, 0x1.fefffep127f, 0x1.ffp127f,
                                   -INFINITY, NAN,       -NAN,       0x1p-149f,     0x1.8p-134f,     -0.0f};
  for (const int64_t rows : {3, 13}) {
    std::vector<float> x = normal(static_cast<size_t>(rows * cols), 21);
    for (const int64_t at : {11, 133}) std::copy(special.begin(), special.end(), x.begin() + 2 * cols + at);
    for (const std::string& isa : supported_isas()) {
      const Activations q(select_kernels(isa), x, rows, cols, {16, 2});
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < cols; ++c) CHECK_EQ(q.bf16(r, c), f32_to_bf16(x[static_cast<size_t>(r * cols + c)]));
        CHECK_EQ(q.bf16(r, cols), 0);
      }
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

TEST(logit_blocks_know_what_a_softmax_needs) {
  for (const int64_t n : {1, 15, 16, 17, 255, 256, 257, 1000}) {
    std::vector<float> x = normal(static_cast<size_t>(n), 44, 4.0f);
    const std::vector<float> found = on_every_isa("logit blocks", [&](const Kernels& kernels) {
      std::vector<LogitBlock> blocks(static_cast<size_t>((n + kLogitBlock - 1) / kLogitBlock)), without = blocks;
      kernels.logit_blocks({x.data(), n, blocks.data(), true});
      kernels.logit_blocks({x.data(), n, without.data(), false});
      std::vector<float> all;
      for (size_t b = 0; b < blocks.size(); ++b) {
        CHECK_EQ(without[b].largest, blocks[b].largest);
        all.insert(all.end(), {blocks[b].largest, blocks[b].sum});
      }
      return all;
    });
    for (size_t b = 0; b < found.size() / 2; ++b) {
      const auto begin = x.begin() + static_cast<int64_t>(b) * kLogitBlock,
                 end = std::min(begin + kLogitBlock, x.end());
      const float largest = *std::max_element(begin, end);
      double sum = 0.0;
      for (auto at = begin; at != end; ++at) sum += std::exp(static_cast<double>(*at) - largest);
      CHECK_EQ(found[2 * b], largest);
      // 2 ulp of each exponential, half of one of each difference, which are below 32, and 8 roundings of sums.
      CHECK(std::fabs(found[2 * b + 1] - sum) <= (4 + 16 + 8) * 0x1p-24 * sum);
    }
  }
}

TEST(logit_blocks_with_a_number_that_is_none_say_so) {
  for (const std::string& isa : supported_isas()) {
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      for (const size_t at : {size_t{256}, size_t{300}, size_t{530}}) {
        std::vector<float> x(531, 1.0f);
        x[at] = bad;
        std::vector<LogitBlock> blocks(3);
        select_kernels(isa).logit_blocks({x.data(), 531, blocks.data(), true});
        for (size_t b = 0; b < 3; ++b) {
          CHECK_EQ(std::isnan(blocks[b].largest), b == at / 256);
          CHECK_EQ(std::isnan(blocks[b].sum), b == at / 256);
        }
      }
    }
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