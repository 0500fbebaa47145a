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

// Gives logits that are forbidden the lowest value that a float has.
class Bans {
 public:
  static bool is_banned(float logit);

  void apply(const LogitRow& logits, const Sequence& sequence);

  // Puts the logits back that the last apply() has changed.
  void restore(const LogitRow& logits) const;

  int64_t n_banned() const { return static_cast<int64_t>(touched_.size()); }  // by the last apply()

 private:
  struct Touched {
    int64_t place;
    float logit;  // as it was
  };
  void ban(const LogitRow& logits, int32_t id);

  std::vector<Touched> touched_;
};

}  // namespace jiffy
