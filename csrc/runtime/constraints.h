// What a request forbids its next token to be, or says that it must be, whatever the logits are.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "runtime/logit_row.h"

namespace jiffy {

struct Sequence;

struct Constraints {
  int64_t min_tokens = 0;       // so many are generated before a token that ends the text
  int64_t no_repeat_ngram = 0;  // so many tokens in a row stand nowhere twice, prompt included; 0: any may
  int32_t forced_first = -1;    // the first token that is generated; -1: any
  int32_t forced_last = -1;     // the one at which max_tokens, or the context, is full
  std::vector<std::vector<int32_t>> bad_words = {};  // runs of tokens that are never completed

  void validate() const;  // throws Error kParameter naming the field
  bool none() const {
    return min_tokens == 0 && no_repeat_ngram == 0 && forced_first < 0 && forced_last < 0 && bad_words.empty();
  }
};

// The token that the sequence must go on with, if it says so; it may have `limit` generated ones.
std::optional<int32_t> forced_token(const Sequence& sequence, int64_t limit);

// The tokens that a sequence must not go on with.
class Bans {
 public:
  void find(const Sequence& sequence);
  const std::vector<int32_t>& ids() const { return ids_; }  // those last found, ascending
  bool contains(int32_t id) const;

  // Gives logits that are forbidden the lowest value that a float has.
  void apply(const LogitRow& logits, const Sequence& sequence);
  static bool is_banned(float logit);

  // Puts the logits back that the last apply() has changed.
  void restore(const LogitRow& logits) const;

 private:
  struct Touched {
    int64_t place;
    float logit;  // as it was
  };

  std::vector<int32_t> ids_;
  std::vector<Touched> touched_;
};

}  // namespace jiffy
