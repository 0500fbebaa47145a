// Which positions a token attends to.
#pragma once

#include "ops/op.h"

namespace jiffy {

struct Sight {
  int64_t first, end;
};

// Of the token at `position` of a slice.
inline Sight sight(const Attributes& a, const SliceView& slice, int64_t position) {
  if (a.cross) return {0, slice.source_length};
  int64_t first = 0, end = a.causal ? position + 1 : slice.position + slice.end - slice.begin;
  if (a.window > 0) {
    first = position >= a.window ? position + 1 - a.window : 0;
    end = end < position + a.window ? end : position + a.window;
  }
  return {first, end};
}

}  // namespace jiffy
