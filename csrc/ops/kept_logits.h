// What a step may keep of its rows of logits instead of storing them: the largest, and what a softmax needs to know.
//
// A block of outputs is multiplied into memory that stays in L2, looked at, and overwritten by the next. Logits of 64
// rows and 65,001 tokens are 17 MB, which otherwise go to memory and come back twice.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernels.h"

namespace jiffy {

struct KeptLogit {
  float logit = -__builtin_inff();
  int32_t place = -1;  // in its row; -1: there is none
};

// The largest of a row's logits, which are shown in ascending order of place.
class LargestLogits {
 public:
  // kept: [most], the largest first, equal ones by place
  LargestLogits(KeptLogit* kept, int64_t most) : kept_(kept), last_(most - 1) {}

  void take(const float* logits, int64_t n, const LogitBlock& block, int64_t place) {
    if (!(block.largest > kept_[last_].logit)) return;
    for (int64_t begin = 0; begin < n; begin += kTogether) {
      const int64_t end = begin + kTogether < n ? begin + kTogether : n;
      if (any_larger(logits, begin, end)) take_some(logits, begin, end, place);
    }
  }

 private:
  static constexpr int64_t kTogether = 16;  // compilers compare so many in vectors

  bool any_larger(const float* logits, int64_t begin, int64_t end) const {
    const float least = kept_[last_].logit;
    int any = 0;
    for (int64_t i = begin; i < end; ++i) any |= static_cast<int>(logits[i] > least);
    return any != 0;
  }
  void take_some(const float* logits, int64_t begin, int64_t end, int64_t place) {
    for (int64_t i = begin; i < end; ++i) {
      if (logits[i] > kept_[last_].logit) insert({logits[i], static_cast<int32_t>(place + i)});
    }
  }
  void insert(KeptLogit one) {
    int64_t at = last_;
    for (; at > 0 && one.logit > kept_[at - 1].logit; --at) kept_[at] = kept_[at - 1];
    kept_[at] = one;
  }

  KeptLogit* const kept_;
  const int64_t last_;
};

// Where lanes keep what they have seen.
struct LogitKeeper {
  int64_t most;        // logits of a row
  bool sums;           // whether blocks have theirs
  int64_t n_blocks;    // of a whole row
  KeptLogit* largest;  // [lanes, rows, most]
  LogitBlock* blocks;  // [rows, n_blocks]
  int64_t at_once;     // blocks that are multiplied together
  float* tiles;        // [lanes, rows, tile_stride()]

  // Not a power of two, so that rows don't share the same few sets of a cache.
  int64_t tile_stride() const { return at_once * kLogitBlock + 16; }
  // Few rows wait for memory: their weights stay one long stream.
  static int64_t blocks_at_once(int64_t rows) { return rows > 8 ? 1 : rows > 2 ? 2 : 8; }
};
constexpr int64_t n_logit_blocks(int64_t width) { return (width + kLogitBlock - 1) / kLogitBlock; }

}  // namespace jiffy
