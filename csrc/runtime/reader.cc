#include "runtime/reader.h"

#include <string>
#include <utility>

#include "base/error.h"

namespace jiffy {

Reader::Reader(std::shared_ptr<Encoder> encoder, ThreadPool& pool, const Kernels& kernels, const KvLayout& shape,
               int64_t positions)
    : encoder_(std::move(encoder)), pool_(pool), kernels_(kernels), cache_(shape, positions, false) {
  const int64_t width = shape.n_layers * 2 * shape.n_kv_heads * shape.head_dim;
  if (encoder_->width() != width) {
    fail(ErrorKind::kFormat, "encoder result", "keys and values of all layers, " + std::to_string(width),
         std::to_string(encoder_->width()));
  }
}

std::shared_ptr<SourceText> Reader::text(std::vector<int32_t> tokens) {
  const auto length = static_cast<int64_t>(tokens.size());
  encoder_->check({.token_ids = tokens, .type_ids = {}, .lengths = {length}});
  return std::make_shared<SourceText>(std::move(tokens), cache_.pool());
}

void Reader::read(const std::vector<SourceText*>& texts, const Interrupted& interrupted, const Observer& observer) {
  EncoderInput input;
  for (const SourceText* text : texts) {
    input.token_ids.insert(input.token_ids.end(), text->tokens().begin(), text->tokens().end());
    input.lengths.push_back(text->length());
  }
  if (texts.empty()) return;
  const size_t bytes = input.token_ids.size() * static_cast<size_t>(encoder_->width()) * sizeof(float);
  if (rows_.size() < bytes) {
    rows_ = Buffer();  // first the old memory back, then the new
    rows_ = Buffer::allocate(bytes, "an encoder's rows for " + std::to_string(input.token_ids.size()) + " tokens");
  }
  encoder_->run(input, {}, rows_.as<float>(), interrupted, observer);
  write(texts);
  for (SourceText* text : texts) text->encoded = true;
}

// A chunk is a layer of a text.
void Reader::write(const std::vector<SourceText*>& texts) {
  const KvLayout& kv = cache_.layout();
  const int64_t width = kv.n_kv_heads * kv.head_dim, stride = encoder_->width();
  const auto n = static_cast<int64_t>(texts.size()) * kv.n_layers;
  pool_.run([&](Lane& lane) {
    const float* rows = rows_.as<float>();  // chunks come in ascending order: a text's rows are found by walking on
    int64_t text = 0;
    for (int64_t i; (i = lane.next_chunk()) < n;) {
      for (; text < i / kv.n_layers; ++text) rows += texts[static_cast<size_t>(text)]->length() * stride;
      const SourceText& source = *texts[static_cast<size_t>(text)];
      const int64_t layer = i % kv.n_layers;
      for (int64_t h = 0; h < kv.n_kv_heads; ++h) {
        const float* k = rows + layer * 2 * width + h * kv.head_dim;
        kernels_.kv_write({.kv = kv.head(layer, h, source.block_table()),
                           .k = k,
                           .v = k + width,
                           .stride = stride,
                           .position = 0,
                           .begin = 0,
                           .end = source.length()});
      }
    }
  });
}

}  // namespace jiffy
