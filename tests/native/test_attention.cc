// The attention kernel on every instruction set: the same bits, right against double, each row for itself.
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

}  // namespace
}  // namespace jiffy
