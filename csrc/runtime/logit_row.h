// A row of logits: of all tokens, or of a source text's candidates.
#pragma once

#include <algorithm>
#include <cstdint>

namespace jiffy {

struct LogitRow {
  float* values;  // [count]
  int64_t count;
  const int32_t* ids = nullptr;  // [count], ascending: whose they are; nullptr: those of 0, 1, 2, ...

  int32_t id(int64_t place) const { return ids != nullptr ? ids[place] : static_cast<int32_t>(place); }

  // Where a token's logit is, -1 if it has none.
  int64_t place(int32_t id) const {
    if (ids == nullptr) return id >= 0 && id < count ? id : -1;
    const int32_t* const at = std::lower_bound(ids, ids + count, id);
    return at != ids + count && *at == id ? at - ids : -1;
  }
};

}  // namespace jiffy
