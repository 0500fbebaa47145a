// Every kernel on every instruction set: the same bits as scalar, and right against slow double references.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/dtype.h"
#include "check.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/select.h"
#include "quant/reference.h"
#include "quant/weight.h"

namespace jiffy {
namespace {

std::vector<float> normal(size_t n, unsigned seed, float scale = 1.0f) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> distribution(0.0f, scale);
  std::vector<float> v(n);
  for (float& x : v) x = distribution(rng);
  return v;
}

// Runs `compute` on every set and checks that all give the bytes of the first, which it returns.
template <class Compute>
auto on_every_isa(const char* what, Compute&& compute) {
  const std::vector<std::string> isas = supported_isas();
  const auto first = compute(select_kernels(isas[0]));
  for (size_t i = 1; i < isas.size(); ++i) {
    const auto other = compute(select_kernels(isas[i]));
    const bool equal =
        other.size() == first.size() && std::memcmp(other.data(), first.data(), first.size() * sizeof(first[0])) == 0;
    if (!equal)
      check::report_failure(__FILE__, __LINE__, std::string(what) + ": " + isas[i] + " differs from " + isas[0]);
  }
  return first;
}

std::vector<WeightFormat> all_formats() {
  std::vector<WeightFormat> formats{{}};
  for (const int bits : {4, 8}) {
    for (const int group : {32, 64, 128}) {
      for (const Offset offset : {Offset::kNone, Offset::kMin, Offset::kZero}) {
        for (const ScaleType scale : {ScaleType::kF16, ScaleType::kF32})
          formats.push_back({bits, group, offset, scale});
      }
    }
  }
  return formats;
}

// A packed random matrix; for offset "zero" the offsets are made integers by hand.
std::shared_ptr<Weight> random_weight(int64_t rows, int64_t cols, const WeightFormat& format, ThreadPool& pool) {
  WeightFormat packed = format;
  if (format.offset == Offset::kZero) packed.offset = Offset::kMin;
  const std::vector<float> w = normal(static_cast<size_t>(rows * cols), 7, 0.1f);
  const std::vector<uint8_t> bytes = reference_pack(w.data(), rows, cols, packed);
  auto weight = Weight::create("w", rows, cols, format);
  if (format.offset != Offset::kZero) {
    weight->pack_rows(0, rows, reinterpret_cast<const uint8_t*>(w.data()), SourceType::kF32, pool);
    CHECK(std::memcmp(weight->matrix().data, bytes.data(), bytes.size()) ==
          0);  // the native packer is the oracle's equal
    return weight;
  }
  uint8_t* data = const_cast<uint8_t*>(weight->matrix().data);
  std::memcpy(data, bytes.data(), bytes.size());
  for (int64_t slab = 0; slab < n_slabs(rows); ++slab) {
    for (int64_t g = 0; g < n_groups(format, cols); ++g) {
      uint8_t* line = data + slab * weight->matrix().slab_stride + header_offset(format, g);
      for (int lane = 0; lane < kSlabRows; ++lane) {
        const float zero = static_cast<float>((g * 5 + lane) % 16);
        const uint16_t half = f32_to_f16(zero);
        if (format.scale == ScaleType::kF16) {
          std::memcpy(line + 32 + lane * 2, &half, 2);
        } else {
          std::memcpy(line + 64 + lane * 4, &zero, 4);
        }
      }
    }
  }
  return weight;
}

struct Activations {
  std::vector<uint8_t> memory;
  ActivationView view;

  Activations(const Kernels& kernels, const std::vector<float>& x, int64_t rows, int64_t cols, int64_t group)
      : memory(static_cast<size_t>(rows * activation_row_bytes(cols, group))),
        view(activation_view(memory.data(), rows, cols, group)) {
    kernels.quantize({x.data(), view, 0, rows});
  }
  // The integer that the kernels multiply with.
  int q(int64_t row, int64_t col) const {
    int64_t tile = 0;
    while (row_tile_begin(view.rows, tile + 1) <= row) ++tile;
    const int64_t first = row_tile_begin(view.rows, tile), rows = row_tile_begin(view.rows, tile + 1) - first;
    return view.data[first * view.padded() + (col / 4 * rows + row - first) * 4 + col % 4];
  }
  double scale(int64_t row, int64_t col) const {
    int64_t tile = 0;
    while (row_tile_begin(view.rows, tile + 1) <= row) ++tile;
    const int64_t first = row_tile_begin(view.rows, tile), rows = row_tile_begin(view.rows, tile + 1) - first;
    return view.scale[first * view.groups() + col / view.group * rows + row - first];
  }
};

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
    on_every_isa("rms_norm_quantize", [&](const Kernels& kernels) {
      const Activations apart(kernels, y, rows, dim, 32);
      std::vector<uint8_t> memory(apart.memory.size());
      kernels.rms_norm_quantize({x.data(), w.data(), activation_view(memory.data(), rows, dim, 32), 1e-5f, 0, rows});
      CHECK(memory == apart.memory);
      return memory;
    });
  }
}

TEST(quantize_is_exact_to_half_a_step_and_keeps_nan_visible) {
  const int64_t cols = 70, rows = 13;
  std::vector<float> x = normal(static_cast<size_t>(rows * cols), 21);
  x[5] = 0.0f;
  std::fill_n(x.begin() + 2 * cols, cols, 0.0f);
  const Kernels& kernels = select_kernels("auto");
  const Activations q(kernels, x, rows, cols, 64);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      const double back = q.q(r, c) * q.scale(r, c);
      CHECK(std::abs(q.q(r, c)) <= 127);
      CHECK(std::fabs(back - x[static_cast<size_t>(r * cols + c)]) <= 0.5001 * q.scale(r, c));
    }
  }
  x[static_cast<size_t>(cols + 3)] = NAN;
  on_every_isa("quantize NaN", [&](const Kernels& k) {
    const Activations bad(k, x, rows, cols, 64);
    CHECK(std::isnan(bad.scale(1, 3)));
    CHECK(!std::isnan(bad.scale(0, 3)));
    return std::vector<int8_t>(bad.view.data, bad.view.data + 1);
  });
}

TEST(embedding_reads_back_what_was_packed) {
  ThreadPool pool(1);
  const std::vector<int32_t> ids{0, 36, 17, 16, 1};
  for (const WeightFormat& format : all_formats()) {
    const int64_t cols = 90;
    const auto table = random_weight(37, cols, format, pool);
    const std::vector<float> y = on_every_isa("embedding", [&](const Kernels& kernels) {
      std::vector<float> out(ids.size() * static_cast<size_t>(cols));
      kernels.embedding({table->matrix(), ids.data(), out.data(), 0, static_cast<int64_t>(ids.size())});
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
      kernels.softmax({a.data(), e.data(), n, *largest, 0.5f, &e.back()});
      double sum = 0.0;
      for (size_t i = 0; i < a.size(); ++i) {
        const double exact = std::exp((static_cast<double>(a[i]) - *largest) * 0.5);
        sum += exact;
        CHECK(std::fabs(e[i] - exact) <= 8 * 0x1p-24 * exact);
      }
      CHECK(std::fabs(e.back() - sum) <= 0x1p-20 * sum);
      return e;
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

// A cache of one layer and one head, filled with random keys and values.
struct Cache {
  int64_t head_dim, padded;
  std::vector<float> memory;
  std::vector<int32_t> table;
  KvHeadView view;

  Cache(int64_t head_dim, int64_t length)
      : head_dim(head_dim), padded((head_dim + 15) / 16 * 16), table(static_cast<size_t>(length / kBlockSize + 1)) {
    const int64_t block = kBlockSize * (head_dim + padded), blocks = static_cast<int64_t>(table.size());
    memory.assign(static_cast<size_t>(block * blocks), 0.0f);
    for (int64_t i = 0; i < blocks; ++i) table[static_cast<size_t>(i)] = static_cast<int32_t>((i * 7 + 3) % blocks);
    while (blocks % 7 == 0 && blocks > 1) {  // 7 and the count must have no common factor: then use the identity
      for (int64_t i = 0; i < blocks; ++i) table[static_cast<size_t>(i)] = static_cast<int32_t>(i);
      break;
    }
    view = {memory.data(), memory.data() + head_dim * kBlockSize, block, table.data(), head_dim, padded};
  }
};

TEST(attention_is_right_and_a_row_depends_on_itself_alone) {
  for (const int64_t head_dim : {2, 20, 64, 80}) {
    for (const int32_t length : {1, 31, 64, 65, 600, 1100}) {
      Cache cache(head_dim, length);
      const size_t size = static_cast<size_t>(length * head_dim);
      const std::vector<float> k = normal(size, 51), v = normal(size, 52),
                               q = normal(static_cast<size_t>(kAttentionRows * head_dim), 53);
      select_kernels("scalar").kv_write({cache.view, k.data(), v.data(), head_dim, 0, 0, length});
      const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
      const auto run = [&](const Kernels& kernels, int64_t first, int64_t rows) {
        std::vector<float> out(static_cast<size_t>(rows * head_dim));
        std::vector<const float*> queries;
        std::vector<float*> outs;
        std::vector<int32_t> visible;
        for (int64_t r = 0; r < rows; ++r) {
          queries.push_back(q.data() + (first + r) * head_dim);
          outs.push_back(out.data() + r * head_dim);
          visible.push_back(std::max<int32_t>(1, length - static_cast<int32_t>(first + r) * 40));
        }
        Buffer scratch =
            Buffer::allocate(static_cast<size_t>(attention_scratch_floats(cache.padded)) * sizeof(float), "scratch");
        kernels.attention({cache.view, rows, queries.data(), outs.data(), visible.data(), scale, scratch.as<float>()});
        return out;
      };
      const std::vector<float> all =
          on_every_isa("attention", [&](const Kernels& kernels) { return run(kernels, 0, kAttentionRows); });
      for (int64_t r = 0; r < kAttentionRows; ++r) {
        const std::vector<float> alone = run(select_kernels("auto"), r, 1);
        CHECK(std::memcmp(alone.data(), all.data() + r * head_dim, alone.size() * sizeof(float)) == 0);
        const int64_t visible = std::max<int64_t>(1, length - r * 40);
        std::vector<double> p(static_cast<size_t>(visible));
        double top = -INFINITY, sum = 0.0;
        for (int64_t t = 0; t < visible; ++t) {
          double s = 0.0;
          for (int64_t d = 0; d < head_dim; ++d)
            s += static_cast<double>(q[static_cast<size_t>(r * head_dim + d)]) *
                 k[static_cast<size_t>(t * head_dim + d)];
          p[static_cast<size_t>(t)] = s * scale;
          top = std::max(top, s * scale);
        }
        for (double& x : p) sum += x = std::exp(x - top);
        for (int64_t d = 0; d < head_dim; ++d) {
          double exact = 0.0, magnitude = 0.0;
          for (int64_t t = 0; t < visible; ++t) {
            const double part = p[static_cast<size_t>(t)] / sum * v[static_cast<size_t>(t * head_dim + d)];
            exact += part;
            magnitude += std::fabs(part);
          }
          // A score's error of head_dim eps times its magnitude moves every probability by as much.
          const double bound = 0x1p-24 * magnitude * (64.0 + 8.0 * static_cast<double>(head_dim));
          CHECK(std::fabs(alone[static_cast<size_t>(d)] - exact) <= bound);
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
