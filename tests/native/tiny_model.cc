#include "tiny_model.h"

#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "quant/weight.h"

namespace jiffy {
namespace {

constexpr int64_t kDim = 32, kHeads = 2, kHeadDim = 16, kLayers = 2;

// Without norms, so that a poisoned token stays one.
class Builder {
 public:
  explicit Builder(const WeightFormat& format) : format_(format) {}

  ProgramSpec build() {
    const int cosines = rope_table(false), sines = rope_table(true);
    int x = value(kDim);
    const int table = matrix(TinyModel::kVocabSize, kDim, {}, 1.0f, true);
    add({OpKind::kEmbedding, {}, {x}, {table}, {}});
    for (int64_t layer = 0; layer < kLayers; ++layer) x = attention_layer(x, layer, {cosines, sines});
    const int selected = value(kDim, Space::kOutputs);
    add({OpKind::kSelect, {x}, {selected}, {}, {}});
    spec_.result = linear(selected, TinyModel::kVocabSize, Space::kOutputs);
    spec_.context_length = TinyModel::kContext;
    return std::move(spec_);
  }

 private:
  void add(Instruction instruction) { spec_.instructions.push_back(std::move(instruction)); }

  int value(int64_t width, Space space = Space::kTokens, int64_t group = 0) {
    spec_.values.push_back({space, width, group});
    return static_cast<int>(spec_.values.size()) - 1;
  }

  int matrix(int64_t rows, int64_t cols, const WeightFormat& format, float scale, bool poisoned = false) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> w(static_cast<size_t>(rows * cols));
    for (float& x : w) x = normal(rng_);
    for (int64_t i = 0; poisoned && i < cols; ++i) w[static_cast<size_t>(TinyModel::kPoison * cols + i)] = 3e38f;
    auto weight = Weight::create("w" + std::to_string(spec_.parameters.size()), rows, cols, format);
    weight->pack_rows(0, rows, reinterpret_cast<const uint8_t*>(w.data()), SourceType::kF32, pool_);
    spec_.parameters.push_back({weight->name(), weight->matrix()});
    spec_.owners.push_back(weight);
    return static_cast<int>(spec_.parameters.size()) - 1;
  }

  int rope_table(bool sine) {
    auto table = std::make_shared<std::vector<float>>();
    for (int64_t position = 0; position < TinyModel::kContext; ++position) {
      for (int64_t i = 0; i < kHeadDim / 2; ++i) {
        const double angle =
            static_cast<double>(position) * std::pow(10000.0, -2.0 * static_cast<double>(i) / kHeadDim);
        table->push_back(static_cast<float>(sine ? std::sin(angle) : std::cos(angle)));
      }
    }
    spec_.parameters.push_back({sine ? "sines" : "cosines", {}, table->data(), TinyModel::kContext, kHeadDim / 2});
    spec_.owners.push_back(table);
    return static_cast<int>(spec_.parameters.size()) - 1;
  }

  int linear(int x, int64_t outputs, Space space = Space::kTokens) {
    const int64_t cols = spec_.values[static_cast<size_t>(x)].width;
    if (format_.quantized()) {
      const int q8 = value(cols, space, format_.group);
      add({OpKind::kQuantize, {x}, {q8}, {}, {}});
      x = q8;
    }
    const int y = value(outputs, space);
    const int weight = matrix(outputs, cols, format_, 1.5f / std::sqrt(static_cast<float>(cols)));
    add({OpKind::kMatmul, {x}, {y}, {weight, -1}, {}});
    return y;
  }

  int rotated(int x, const std::vector<int>& rope, const Attributes& attributes) {
    const int y = value(spec_.values[static_cast<size_t>(x)].width);
    add({OpKind::kRope, {x}, {y}, rope, attributes});
    return y;
  }

  int attention_layer(int x, int64_t layer, const std::vector<int>& rope) {
    Attributes attributes{.scale = 0.25f, .layer = layer, .n_heads = kHeads, .n_kv_heads = 1, .head_dim = kHeadDim};
    const int q = rotated(linear(x, kHeads * kHeadDim), rope, attributes);
    Attributes one_head = attributes;
    one_head.n_heads = 1;
    const int k = rotated(linear(x, kHeadDim), rope, one_head);
    add({OpKind::kKvWrite, {k, linear(x, kHeadDim)}, {}, {}, attributes});
    const int mixed = value(kHeads * kHeadDim);
    add({OpKind::kAttention, {q}, {mixed}, {}, attributes});
    const int sum = value(kDim);
    add({OpKind::kAdd, {x, linear(mixed, kDim)}, {sum}, {}, {}});
    return sum;
  }

  const WeightFormat format_;
  ProgramSpec spec_;
  ThreadPool pool_{1};
  std::mt19937 rng_{11};
};

}  // namespace

std::shared_ptr<const Program> TinyModel::make(const WeightFormat& format) {
  return std::make_shared<const Program>(fuse(Program(Builder(format).build())));
}

}  // namespace jiffy
