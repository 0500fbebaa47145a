// The attention kernel on every instruction set and type of keys and values: the same bits, right against double, each
// row for itself, whatever stands in memory that it must not look at.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/buffer.h"
#include "kernel_testing.h"

namespace jiffy {
namespace {

using check::normal;
using check::on_every_isa;

constexpr KvType kTypes[] = {KvType::kF32, KvType::kBf16, KvType::kInt8};

// int8 codes and the scale of a row, by the rule in kernels/cpu/int8_grid.h.
std::vector<float> on_grid(const float* x, int64_t n) {
  float largest = 0.0f;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
  std::vector<float> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) out[static_cast<size_t>(i)] = std::nearbyint(x[i] * inverse) * (largest / 127.0f);
  return out;
}

// One sequence of one head: its cache, its keys and values as floats and as the cache's type keeps them.
struct Cache {
  KvType type;
  int64_t head_dim, length;
  std::vector<float> k, v, stored_k, stored_v;
  std::vector<float> v_scale;  // [length]: of a position's values on their int8 grid
  std::vector<int32_t> table;
  Buffer memory;
  KvHeadView view;

  Cache(KvType type, int64_t head_dim, int64_t length)
      : type(type),
        head_dim(head_dim),
        length(length),
        k(normal(static_cast<size_t>(length * head_dim), 51)),
        v(normal(static_cast<size_t>(length * head_dim), 52)),
        stored_k(stored(k)),
        stored_v(stored(v)),
        v_scale(static_cast<size_t>(length)),
        table(static_cast<size_t>((length + kBlockSize - 1) / kBlockSize)) {
    const int64_t blocks = static_cast<int64_t>(table.size()), stride = kv_head_bytes(type, head_dim) + 128;
    for (int64_t i = 0; i < blocks; ++i) table[static_cast<size_t>(i)] = static_cast<int32_t>(blocks - 1 - i);
    for (int64_t i = 0; i < length * head_dim; ++i) {
      float& scale = v_scale[static_cast<size_t>(i / head_dim)];
      scale = std::max(scale, std::fabs(v[static_cast<size_t>(i)]) / 127.0f);
    }
    memory = Buffer::allocate(static_cast<size_t>(stride * blocks), "cache");
    view = {type, memory.as<uint8_t>(), stride, table.data(), head_dim};
    write(select_kernels("scalar"));
  }

  std::vector<float> stored(const std::vector<float>& x) const {
    std::vector<float> out;
    for (int64_t t = 0; t < length; ++t) {
      const float* row = x.data() + t * head_dim;
      if (type == KvType::kInt8) {
        const std::vector<float> y = on_grid(row, head_dim);
        out.insert(out.end(), y.begin(), y.end());
      } else {
        for (int64_t d = 0; d < head_dim; ++d) {
          out.push_back(type == KvType::kF32 ? row[d] : bf16_to_f32(f32_to_bf16(row[d])));
        }
      }
    }
    return out;
  }

  // All bytes after writing into memory full of NaN.
  std::vector<uint8_t> write(const Kernels& kernels) {
    std::memset(memory.data(), 0xff, memory.size());
    kernels.kv_write({view, k.data(), v.data(), head_dim, 0, 0, length});
    return {memory.as<uint8_t>(), memory.as<uint8_t>() + memory.size()};
  }
};

constexpr int64_t kRows = 20;  // more than the kernel takes at once

struct Rows {
  std::vector<float> q;  // [kRows, head_dim]
  std::vector<int32_t> first, end, position;
  float scale;
  int64_t reach;            // of the bias; -1: there is none
  std::vector<float> bias;  // [kRows, 2 * reach + 1]

  Rows(const Cache& cache, int32_t window, int64_t reach = -1)
      : q(normal(static_cast<size_t>(kRows * cache.head_dim), 53)),
        scale(1.0f / std::sqrt(static_cast<float>(cache.head_dim))),
        reach(reach),
        bias(normal(static_cast<size_t>(kRows * (2 * reach + 1) * (reach >= 0)), 54)) {
    for (int32_t r = 0; r < kRows; ++r) {
      end.push_back(std::max<int32_t>(1, static_cast<int32_t>(cache.length) - r * 40));
      first.push_back(window == 0 ? 0 : std::max(0, end.back() - window - r));
      position.push_back((first.back() + end.back()) / 2);
    }
  }

  const float* bias_of(int64_t r) const { return bias.data() + r * (2 * reach + 1); }
  float bias_at(int64_t r, int64_t key) const {
    const int64_t distance = key - position[static_cast<size_t>(r)];
    return reach < 0 ? 0.0f : bias_of(r)[reach + std::clamp(distance, -reach, reach)];
  }

  // All that a call of the kernel needs for the rows [from, from + rows).
  struct Call {
    std::vector<float> out;  // [rows, head_dim]
    std::vector<const float*> queries;
    std::vector<float*> outs;
    std::vector<const float*> biases;
    Buffer scratch;
    AttentionArgs args;
  };
  Call call(const Kernels& kernels, const Cache& cache, int64_t from, int64_t rows) const {
    Call c{.out = std::vector<float>(static_cast<size_t>(rows * cache.head_dim)),
           .queries = {},
           .outs = {},
           .biases = {},
           .scratch = Buffer::allocate(static_cast<size_t>(attention_scratch_floats(cache.head_dim)) * 4, "scratch"),
           .args = {}};
    for (int64_t r = 0; r < rows; ++r) {
      c.queries.push_back(q.data() + (from + r) * cache.head_dim);
      c.outs.push_back(c.out.data() + r * cache.head_dim);
      if (reach >= 0) c.biases.push_back(bias_of(from + r));
    }
    c.args = {cache.view,        rows,  c.queries.data(),      c.outs.data(),       first.data() + from,
              end.data() + from, scale, c.scratch.as<float>(), kernels.native_pairs};
    if (reach >= 0) {
      c.args.bias = c.biases.data();
      c.args.position = position.data() + from;
      c.args.reach = reach;
    }
    return c;
  }

  std::vector<float> run(const Kernels& kernels, const Cache& cache, int64_t from, int64_t rows) const {
    Call c = call(kernels, cache, from, rows);
    kernels.attention(c.args);
    return c.out;
  }

  // The same by states of single segments, computed in descending order, then merged.
  std::vector<float> run_by_segments(const Kernels& kernels, const Cache& cache, int64_t before) const {
    const int64_t floats = kRows * attention_state_floats(cache.head_dim);
    const int64_t begin = std::max<int64_t>(0, *std::min_element(first.begin(), first.end()) / kSegment - before);
    const int64_t segments = (cache.length + kSegment - 1) / kSegment - begin;
    Buffer states = Buffer::allocate(static_cast<size_t>(floats * segments) * 4, "states");
    Call c = call(kernels, cache, 0, kRows);
    c.args.part = AttentionPart::kSegment;
    for (int64_t i = segments - 1; i >= 0; --i) {
      c.args.segment = begin + i;
      c.args.states = states.as<float>() + i * floats;
      kernels.attention(c.args);
    }
    c.args.part = AttentionPart::kMerge;
    c.args.segment = begin;
    c.args.states = states.as<float>();
    kernels.attention(c.args);
    return c.out;
  }
};

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// Softmax of one row over what it sees, in double, from the keys as they are stored.
std::vector<double> probabilities(const Cache& cache, const Rows& rows, int64_t r) {
  const int64_t n = cache.head_dim;
  const float* q = rows.q.data() + r * n;
  std::vector<float> query(q, q + n);
  if (cache.type == KvType::kInt8) query = on_grid(query.data(), n);
  if (cache.type == KvType::kBf16) {
    for (float& x : query) x = bf16_to_f32(f32_to_bf16(x));
  }
  for (float& x : query) x *= rows.scale;
  std::vector<double> p(static_cast<size_t>(cache.length), 0.0);
  double top = -INFINITY, sum = 0.0;
  for (int64_t t = rows.first[static_cast<size_t>(r)]; t < rows.end[static_cast<size_t>(r)]; ++t) {
    p[static_cast<size_t>(t)] = dot(query.data(), cache.stored_k.data() + t * n, n) + rows.bias_at(r, t);
    top = std::max(top, p[static_cast<size_t>(t)]);
  }
  for (int64_t t = 0; t < cache.length; ++t) {
    double& x = p[static_cast<size_t>(t)];
    const bool seen = t >= rows.first[static_cast<size_t>(r)] && t < rows.end[static_cast<size_t>(r)];
    sum += x = seen ? std::exp(x - top) : 0.0;
  }
  for (double& x : p) x /= sum;
  return p;
}

// What rounding may add to sum_t p_t v_td: f32 arithmetic, and half a step of the 7-bit probabilities in every tile, or
// that of probabilities to bf16 (2^-8), which are summed as they are rounded.
double error_bound(const Cache& cache, const std::vector<double>& p, int64_t d) {
  const int64_t n = cache.head_dim;
  double magnitude = 0.0, steps = 0.0;
  for (int64_t tile = 0; tile < cache.length; tile += kAttentionTile) {
    double largest = 0.0, codes = 0.0;
    for (int64_t t = tile; t < std::min(cache.length, tile + kAttentionTile); ++t) {
      const float scale = cache.v_scale[static_cast<size_t>(t)];
      const double value = std::fabs(cache.stored_v[static_cast<size_t>(t * n + d)]);
      magnitude += p[static_cast<size_t>(t)] * value;
      largest = std::max(largest, p[static_cast<size_t>(t)] * scale);
      codes += value / scale;
    }
    steps += 0.5 * largest / 127.0 * codes;
  }
  // A score's error of head_dim eps times its magnitude moves every probability by as much.
  const double arithmetic = 0x1p-24 * magnitude * (64.0 + 8.0 * static_cast<double>(n));
  if (cache.type == KvType::kBf16) return arithmetic + 2.0 * 0x1p-8 * magnitude;
  return arithmetic + (cache.type == KvType::kInt8 ? 1.001 * steps : 0.0);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void check_rows(const Cache& cache, const Rows& rows) {
  const int64_t n = cache.head_dim;
  const std::vector<float> all =
      on_every_isa("attention", [&](const Kernels& kernels) { return rows.run(kernels, cache, 0, kRows); });
  Kernels other_way = select_kernels("auto");  // without the instruction for pairs of bf16: the same bits
  other_way.native_pairs = false;
  CHECK(same_bits(rows.run(other_way, cache, 0, kRows), all));
  for (const int64_t before : {0, 1})
    CHECK(same_bits(rows.run_by_segments(select_kernels("auto"), cache, before), all));
  for (int64_t r = 0; r < kRows; ++r) {
    const std::vector<float> alone = rows.run(select_kernels("auto"), cache, r, 1);
    CHECK(std::memcmp(alone.data(), all.data() + r * n, alone.size() * sizeof(float)) == 0);
    const std::vector<double> p = probabilities(cache, rows, r);
    for (int64_t d = 0; d < n; ++d) {
      double exact = 0.0;
      for (int64_t t = 0; t < cache.length; ++t) {
        exact += p[static_cast<size_t>(t)] * cache.stored_v[static_cast<size_t>(t * n + d)];
      }
      CHECK(std::fabs(alone[static_cast<size_t>(d)] - exact) <= error_bound(cache, p, d));
    }
  }
}

TEST(attention_is_right_and_a_row_depends_on_itself_alone) {
  for (const KvType type : kTypes) {
    for (const int64_t head_dim : {2, 20, 64, 80}) {
      for (const int64_t length : {1, 31, 64, 65, 600, 1100}) {
        const Cache cache(type, head_dim, length);
        for (const int32_t window : {0, 1, 70, 530}) check_rows(cache, Rows(cache, window));
      }
    }
  }
}

TEST(a_bias_by_distance_is_added_to_scores) {
  for (const KvType type : kTypes) {
    for (const int64_t length : {1, 40, 600, 1100}) {
      const Cache cache(type, 20, length);
      for (const int64_t reach : {0, 1, 20, 300}) {
        for (const int32_t window : {0, 70}) check_rows(cache, Rows(cache, window, reach));
      }
    }
  }
}

// vdpbf16ps takes and gives denormal numbers as zero; whoever computes without it does the same.
TEST(denormal_numbers_in_bf16_are_zero_on_every_instruction_set) {
  Cache cache(KvType::kBf16, 64, 70);
  for (size_t i = 0; i < cache.v.size(); ++i) {
    cache.v[i] *= i % 3 == 0 ? 0x1p-120f : 0x1p-130f;
    cache.k[i] *= i % 2 == 0 ? 0x1p-70f : 1.0f;
  }
  cache.write(select_kernels("scalar"));
  Rows rows(cache, 0);
  for (size_t i = 0; i < rows.q.size(); i += 2) rows.q[i] *= 0x1p-60f;
  const std::vector<float> out =
      on_every_isa("attention", [&](const Kernels& kernels) { return rows.run(kernels, cache, 0, kRows); });
  Kernels other_way = select_kernels("auto");
  other_way.native_pairs = false;
  CHECK(same_bits(rows.run(other_way, cache, 0, kRows), out));
}

TEST(kv_write_gives_the_same_bytes_on_every_instruction_set) {
  for (const KvType type : kTypes) {
    for (const int64_t head_dim : {1, 2, 20, 64, 130, 512}) {
      Cache cache(type, head_dim, 70);
      on_every_isa("kv_write", [&](const Kernels& kernels) { return cache.write(kernels); });
    }
  }
}

TEST(nan_in_int8_keys_or_values_reaches_those_who_see_it_and_nobody_else) {
  for (const bool in_value : {false, true}) {
    Cache cache(KvType::kInt8, 20, 100);
    (in_value ? cache.v : cache.k)[50 * 20 + 3] = NAN;
    cache.write(select_kernels("scalar"));
    Rows rows(cache, 0);
    rows.end[1] = 50;
    const std::vector<float> out = rows.run(select_kernels("auto"), cache, 0, 2);
    if (in_value) CHECK(std::isnan(out[0]));
    CHECK(std::all_of(out.begin() + 20, out.end(), [](float x) { return std::isfinite(x); }));
  }
}

}  // namespace
}  // namespace jiffy
