// The next token of each sequence, from the logits behind its last one.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "program/executor.h"
#include "runtime/log_softmax.h"
#include "runtime/penalties.h"
#include "runtime/sampling.h"
#include "runtime/sequence.h"

namespace jiffy {

enum class FinishReason : uint8_t { kNone, kStop, kLength, kError };

struct TokenEvent {
  int64_t request = 0;
  int32_t token = 0;
  FinishReason reason = FinishReason::kNone;
  std::shared_ptr<const Error> error;  // for kError: this request failed, the others go on
  std::optional<float> logprob;        // as SamplingParams::logprobs asks; before penalties and temperature
  std::vector<std::pair<int32_t, float>> top_logprobs;
  std::vector<Hypothesis> hypotheses;  // of a beam search that has ended, best first; `token` means nothing then
};

// How many tokens a sequence may generate.
int64_t most_generated(const Sequence& sequence, int64_t context);

// The last event of a request that fails.
TokenEvent failure(int64_t request, Error error);
Error not_finite();    // logits with a NaN or an infinity
Error none_allowed();  // constraints that forbid every token

// The event of a sequence whose next token is `token`, or that has none because its logits are no finite numbers.
TokenEvent token_event(const Sequence& sequence, std::optional<int32_t> token, int64_t context);

// For one thread at a time.
class Chooser {
 public:
  explicit Chooser(const Kernels& kernels) : sampler_(kernels), log_softmax_(kernels) {}

  // The token behind a sequence whose tokens are all computed. The logits are as before afterwards.
  TokenEvent choose(const Sequence& sequence, const LogitRow& logits, int64_t context);

  // How a beam whose tokens are all computed could go on, best first; none where logits are no finite numbers.
  std::vector<Candidate> candidates(const Sequence& beam, const LogitRow& logits, int64_t context);

  // The same from what was kept of the logits [row], at least n_wanted() of each. `ids`: a row without values.
  std::vector<Candidate> candidates(const Sequence& beam, const KeptLogits& kept, size_t row, const LogitRow& ids,
                                    int64_t context);
  int64_t n_wanted(const Sequence& beam);

 private:
  std::vector<Candidate> allowed(const Sequence& beam, const std::vector<std::pair<int32_t, float>>& likeliest,
                                 const LogitRow& ids) const;
  std::optional<int32_t> token(const Sequence& sequence, const LogitRow& logits, int64_t context);

  Sampler sampler_;
  Penalties penalties_;
  Bans bans_;
  LogSoftmax log_softmax_;
  bool none_allowed_ = false;
};

}  // namespace jiffy
