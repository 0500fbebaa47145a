// The encoder of an encoder-decoder: it reads source texts and leaves the keys and values that cross-attention looks
// at.
#pragma once

#include <memory>
#include <vector>

#include "program/executor.h"
#include "runtime/encoder.h"
#include "runtime/kv_cache.h"
#include "runtime/source_text.h"

namespace jiffy {

class Reader {
 public:
  // The encoder's result has, for each layer of `shape`, the keys of all heads and then the values. The cache has room
  // for `positions` of texts. Throws kFormat if the width is another, kOutOfMemory.
  Reader(std::shared_ptr<Encoder> encoder, ThreadPool& pool, const Kernels& kernels, const KvLayout& shape,
         int64_t positions);

  // Throws kParameter, kContextOverflow.
  std::shared_ptr<SourceText> text(std::vector<int32_t> tokens);

  // Those that have blocks and are not yet encoded. Throws Interruption, kOutOfMemory: then none of them is.
  void read(const std::vector<SourceText*>& texts, const Interrupted& interrupted, const Observer& observer = {});

  const KvLayout& layout() const { return cache_.layout(); }
  const BlockPool& pool() const { return cache_.pool(); }
  int64_t context() const { return encoder_->context(); }

 private:
  void write(const std::vector<SourceText*>& texts);

  std::shared_ptr<Encoder> encoder_;
  ThreadPool& pool_;
  const Kernels& kernels_;
  KVCache cache_;
  Buffer rows_;  // [tokens of the largest read so far, encoder's width]
};

}  // namespace jiffy
