// What follows from a step's logits: the tokens of all sequences that have got some, and where beam searches go.
#pragma once

#include <optional>
#include <vector>

#include "base/thread_pool.h"
#include "runtime/chooser.h"

namespace jiffy {

// Of a row of logits: the events of its sequence and of those that begin with it, or the candidates of a beam, none if
// the logits are no finite numbers.
struct Outcome {
  std::vector<TokenEvent> events;
  std::vector<Candidate> candidates;
};

// What becomes of a search all of whose beams have candidates: it goes on, or ends with the event.
struct Turn {
  BeamSearch* search;
  BeamStep step;
  std::optional<TokenEvent> end;
};

class Choosing {
 public:
  Choosing(ThreadPool& pool, const Kernels& kernels);

  // rows: the sequences whose logits are the rows of `logits` [rows, vocab_size], of their candidates in front where
  // their source texts have some. Lanes take a row at a time; what one of them throws is thrown when all are done.
  std::vector<Outcome> choose(const std::vector<const Sequence*>& rows, float* logits, int64_t vocab_size,
                              int64_t context);

 private:
  ThreadPool& pool_;
  std::vector<Chooser> choosers_;  // one a lane
};

// The same where the largest logits are known, and all that matters. places [rows]: theirs in their rows, -1 for logits
// that are no finite numbers.
std::vector<Outcome> likeliest(const std::vector<const Sequence*>& rows, const std::vector<int32_t>& places,
                               int64_t context);

std::vector<Turn> turns(const std::vector<const Sequence*>& rows, const std::vector<Outcome>& outcomes);

}  // namespace jiffy
