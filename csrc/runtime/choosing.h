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

  // How many of each row's largest logits are enough instead of all; 0: they are not.
  int64_t n_enough(const std::vector<const Sequence*>& rows);

  // The same where that many were kept, with the sums of blocks for beams.
  std::vector<Outcome> choose(const std::vector<const Sequence*>& rows, const KeptLogits& kept, int64_t context);

 private:
  template <class Body>
  std::vector<Outcome> each_row(const std::vector<const Sequence*>& rows, Body&& body);

  ThreadPool& pool_;
  std::vector<Chooser> choosers_;  // one a lane
};

std::vector<Turn> turns(const std::vector<const Sequence*>& rows, const std::vector<Outcome>& outcomes);

}  // namespace jiffy
