#include "runtime/chooser.h"

#include <algorithm>

namespace jiffy {

TokenEvent token_event(const Sequence& s, std::optional<int32_t> token, int64_t context) {
  TokenEvent event;
  event.request = s.id;
  if (!token) {
    event.reason = FinishReason::kError;
    event.error = std::make_shared<const Error>(ErrorKind::kFormat, "logits", "finite numbers",
                                                "NaN or infinity: the weights overflow");
    return event;
  }
  event.token = *token;
  const std::vector<int32_t>& stops = s.params.stop_ids;
  if (!s.params.ignore_eos && std::find(stops.begin(), stops.end(), *token) != stops.end()) {
    event.reason = FinishReason::kStop;
  } else if (s.n_generated() + 1 >= s.params.max_tokens || s.n_tokens() >= context) {
    event.reason = FinishReason::kLength;
  }
  return event;
}

TokenEvent Chooser::choose(const Sequence& s, float* logits, int64_t vocab_size, int64_t context) {
  penalties_.apply(logits, vocab_size, s.params, s.tokens, s.n_prompt);
  const std::optional<int32_t> token = sampler_.sample(logits, vocab_size, s.params, s.n_generated());
  penalties_.restore(logits);
  TokenEvent event = token_event(s, token, context);
  if (token && s.params.logprobs >= 0) {
    log_softmax_.read(logits, vocab_size);
    event.logprob = log_softmax_.of(*token);
    event.top_logprobs = log_softmax_.top(s.params.logprobs);
  }
  return event;
}

}  // namespace jiffy
