// Beam search over the continuations of one prompt, in the order of things of transformers' generate(num_beams=...);
// pure logic.
//
// A beam is a sequence. One whose tokens are all computed has candidates and waits for the others; when all have
// theirs, the best continuations of all are the next beams. What ends a text, or is as long as it may be, becomes a
// hypothesis, with its score divided by length ^ length_penalty.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace jiffy {

struct Sequence;
using Sequences = std::map<int64_t, std::unique_ptr<Sequence>>;  // by number, which is the order of arrival

// When a search ends: as soon as it has as many hypotheses as beams, when the best beam as it is would be no better
// than the worst of these, or when it could not become better at any length.
enum class EarlyStopping : uint8_t { kNo, kYes, kNever };

struct BeamParams {
  int64_t width = 1;  // beams; 1: no search
  int64_t n = 1;      // hypotheses that are given back, at most `width`
  float length_penalty = 1.0f;
  EarlyStopping early_stopping = EarlyStopping::kNo;

  void validate() const;  // throws Error kParameter naming the field
};

// How a beam could go on. score: of all tokens generated so far, the sum of their log probabilities; -infinity for a
// beam that can't go on, since all tokens are forbidden.
struct Candidate {
  int32_t token;
  float score;
};

struct Hypothesis {
  std::vector<int32_t> tokens;  // generated ones
  float score;
  bool stopped;  // by a token that ends a text
};

// What a step makes of a search. Memory for all that follows from it has been allocated.
struct BeamStep {
  struct Beam {
    size_t parent;  // the number of the beam that it continues
    float score;
    std::vector<int32_t> tokens;       // of its prompt, too
    std::vector<int32_t> block_table;  // empty, with memory for as much as the parent's
    int64_t n_computed = 0;            // as the parent's are when the step is taken
    size_t n_known = 0;
  };
  std::vector<Beam> beams;  // best first
  std::vector<Hypothesis> hypotheses;
  bool done = false;
};

// What the beams of one request share.
class BeamSearch {
 public:
  // `first` is beam 0, and `others` the rest; tokens: how many may be generated.
  BeamSearch(Sequence& first, Sequences others, int64_t tokens);

  // How many candidates of a beam can matter.
  static int64_t n_candidates(const Sequence& beam);

  // candidates: of each live beam, best first. The search itself is as before.
  BeamStep next(const std::vector<const std::vector<Candidate>*>& candidates) const;

  const std::vector<Sequence*>& beams() const { return beams_; }  // by number; the first `n_live` of them live
  size_t n_live = 1;
  Sequences idle;                      // the beams that don't live
  std::vector<Hypothesis> hypotheses;  // the best so far, best first

 private:
  struct Continuation;
  std::vector<Continuation> best(const std::vector<const std::vector<Candidate>*>& candidates) const;
  void finish(BeamStep& step, const std::vector<Continuation>& found) const;
  bool is_done(const BeamStep& step) const;

  std::vector<Sequence*> beams_;
  const int64_t limit_;
};

}  // namespace jiffy
