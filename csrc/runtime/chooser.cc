#include "runtime/chooser.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace jiffy {

int64_t most_generated(const Sequence& s, int64_t context) {
  return std::min(s.params.max_tokens, context + 1 - s.n_prompt);  // the last token is never computed
}

TokenEvent failure(int64_t request, Error error) {
  TokenEvent event;
  event.request = request;
  event.reason = FinishReason::kError;
  event.error = std::make_shared<const Error>(std::move(error));
  return event;
}

Error not_finite() {
  return Error(ErrorKind::kFormat, "logits", "finite numbers", "NaN or infinity: the weights overflow");
}

Error none_allowed() { return Error(ErrorKind::kParameter, "bad_words_ids", "a token that is allowed", "none"); }

TokenEvent token_event(const Sequence& s, std::optional<int32_t> token, int64_t context) {
  if (!token) return failure(s.id, not_finite());
  TokenEvent event;
  event.request = s.id;
  event.token = *token;
  const std::vector<int32_t>& stops = s.params.stop_ids;
  if (!s.params.ignore_eos && std::find(stops.begin(), stops.end(), *token) != stops.end()) {
    event.reason = FinishReason::kStop;
  } else if (s.n_generated() + 1 >= most_generated(s, context)) {
    event.reason = FinishReason::kLength;
  }
  return event;
}

std::optional<int32_t> Chooser::token(const Sequence& s, const LogitRow& logits, int64_t context) {
  if (const auto forced = forced_token(s, most_generated(s, context))) return forced;
  penalties_.apply(logits, s.params, s.tokens, s.n_prompt);
  bans_.apply(logits, s);
  const std::optional<int32_t> place = sampler_.sample(logits.values, logits.count, s.params, s.n_generated());
  none_allowed_ = place && Bans::is_banned(logits.values[*place]);
  bans_.restore(logits);
  penalties_.restore(logits);
  return place ? std::optional(logits.id(*place)) : std::nullopt;
}

TokenEvent Chooser::choose(const Sequence& s, const LogitRow& logits, int64_t context) {
  none_allowed_ = false;
  const std::optional<int32_t> chosen = token(s, logits, context);
  if (none_allowed_) return failure(s.id, none_allowed());
  TokenEvent event = token_event(s, chosen, context);
  if (chosen && s.params.logprobs >= 0) {
    log_softmax_.read(logits.values, logits.count);
    event.logprob = log_softmax_.of(logits.place(*chosen));
    event.top_logprobs = log_softmax_.top(s.params.logprobs);
    for (auto& [id, logprob] : event.top_logprobs) id = logits.id(id);  // was a place
  }
  return event;
}

// How many of the likeliest tokens are enough, whichever of them are banned.
int64_t Chooser::n_wanted(const Sequence& beam) {
  bans_.find(beam);
  return BeamSearch::n_candidates(beam) + static_cast<int64_t>(bans_.ids().size());
}

// likeliest: (place, log probability), n_wanted() of them or all that there are.
std::vector<Candidate> Chooser::allowed(const Sequence& beam, const std::vector<std::pair<int32_t, float>>& likeliest,
                                        const LogitRow& ids) const {
  std::vector<Candidate> found;
  for (const auto& [place, logprob] : likeliest) {
    const int32_t id = ids.id(place);
    if (!bans_.contains(id)) found.push_back({id, beam.score + logprob});
  }
  const int64_t most = BeamSearch::n_candidates(beam);
  if (std::cmp_greater(found.size(), most)) found.resize(static_cast<size_t>(most));
  if (found.empty()) found.push_back({0, -std::numeric_limits<float>::infinity()});
  return found;
}

std::vector<Candidate> Chooser::candidates(const Sequence& beam, const LogitRow& logits, int64_t context) {
  if (const auto forced = forced_token(beam, most_generated(beam, context))) return {{*forced, beam.score}};
  log_softmax_.read(logits.values, logits.count);
  if (!log_softmax_.finite()) return {};
  return allowed(beam, log_softmax_.top(n_wanted(beam)), logits);
}

std::vector<Candidate> Chooser::candidates(const Sequence& beam, const KeptLogits& kept, size_t row,
                                           const LogitRow& ids, int64_t context) {
  if (const auto forced = forced_token(beam, most_generated(beam, context))) return {{*forced, beam.score}};
  log_softmax_.read(kept.blocks.data() + static_cast<int64_t>(row) * kept.n_blocks, kept.n_blocks);
  if (!log_softmax_.finite()) return {};
  std::vector<std::pair<int32_t, float>> likeliest;
  const int64_t wanted = n_wanted(beam);
  for (const KeptLogit* at = kept.row(row); at < kept.row(row) + wanted && at->place >= 0; ++at) {
    likeliest.emplace_back(at->place, log_softmax_.of_logit(at->logit));
  }
  return allowed(beam, likeliest, ids);
}

}  // namespace jiffy
