#include "runtime/constraints.h"

#include <algorithm>
#include <limits>
#include <string>

#include "base/error.h"
#include "runtime/sequence.h"

namespace jiffy {
namespace {

constexpr float kBanned = std::numeric_limits<float>::lowest();

void require(bool condition, const char* field, const char* expected, int64_t found) {
  if (!condition) fail(ErrorKind::kParameter, field, expected, std::to_string(found));
}

// Whether `tokens` end in the first `count` of `run`.
bool ends_in(const std::vector<int32_t>& tokens, const int32_t* run, size_t count) {
  return count <= tokens.size() && std::equal(run, run + count, tokens.end() - static_cast<std::ptrdiff_t>(count));
}

}  // namespace

void Constraints::validate() const {
  require(min_tokens >= 0 && min_tokens <= INT32_MAX, "min_tokens", "0 to 2147483647", min_tokens);
  require(no_repeat_ngram >= 0 && no_repeat_ngram <= INT32_MAX, "no_repeat_ngram_size", "0 to 2147483647",
          no_repeat_ngram);
  for (const std::vector<int32_t>& run : bad_words) {
    require(!run.empty(), "bad_words_ids", "at least one token each", 0);
  }
}

std::optional<int32_t> forced_token(const Sequence& s, int64_t limit) {
  const Constraints& c = s.params.constraints;
  if (c.forced_last >= 0 && s.n_generated() + 1 >= limit) return c.forced_last;
  if (c.forced_first >= 0 && s.n_generated() == 0) return c.forced_first;
  return {};
}

bool Bans::is_banned(float logit) { return logit == kBanned; }

bool Bans::contains(int32_t id) const { return std::binary_search(ids_.begin(), ids_.end(), id); }

void Bans::find(const Sequence& s) {
  ids_.clear();
  const Constraints& c = s.params.constraints;
  const std::vector<int32_t>& tokens = s.tokens;
  const auto n = static_cast<size_t>(c.no_repeat_ngram);
  if (n > 0 && tokens.size() >= n) {
    const int32_t* last = tokens.data() + tokens.size() - (n - 1);
    for (size_t i = 0; i + n <= tokens.size(); ++i) {
      if (std::equal(last, last + n - 1, tokens.data() + i)) ids_.push_back(tokens[i + n - 1]);
    }
  }
  for (const std::vector<int32_t>& run : c.bad_words) {
    if (ends_in(tokens, run.data(), run.size() - 1)) ids_.push_back(run.back());
  }
  if (s.n_generated() < c.min_tokens) ids_.insert(ids_.end(), s.params.stop_ids.begin(), s.params.stop_ids.end());
  std::sort(ids_.begin(), ids_.end());
  ids_.erase(std::unique(ids_.begin(), ids_.end()), ids_.end());
}

void Bans::apply(const LogitRow& logits, const Sequence& s) {
  find(s);
  touched_.clear();
  for (const int32_t id : ids_) {
    const int64_t place = logits.place(id);
    if (place < 0) continue;
    touched_.push_back({place, logits.values[place]});
    logits.values[place] = kBanned;
  }
}

void Bans::restore(const LogitRow& logits) const {
  for (const Touched& t : touched_) logits.values[t.place] = t.logit;
}

}  // namespace jiffy
