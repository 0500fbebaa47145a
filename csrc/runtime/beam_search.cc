#include "runtime/beam_search.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"
#include "runtime/sequence.h"

namespace jiffy {
namespace {

constexpr int64_t kMostBeams = 1024;

bool ends_text(const SamplingParams& params, int32_t token) {
  const std::vector<int32_t>& stops = params.stop_ids;
  return !params.ignore_eos && std::find(stops.begin(), stops.end(), token) != stops.end();
}

float penalised(float score, int64_t length, float penalty) {
  return score / static_cast<float>(std::pow(static_cast<double>(length), static_cast<double>(penalty)));
}

}  // namespace

void BeamParams::validate() const {
  const auto require = [](bool condition, const char* field, const std::string& expected, const std::string& found) {
    if (!condition) fail(ErrorKind::kParameter, field, expected, found);
  };
  require(width >= 1 && width <= kMostBeams, "n_beams", "1 to " + std::to_string(kMostBeams), std::to_string(width));
  require(n >= 1 && n <= width, "n", "1 to n_beams, " + std::to_string(width), std::to_string(n));
  require(std::isfinite(length_penalty), "length_penalty", "a finite number", std::to_string(length_penalty));
}

// How a beam goes on. ends: with a token that ends a text; last: it is as long as it may be.
struct BeamSearch::Continuation {
  size_t beam;
  Candidate candidate;
  bool stops, ends;
};

BeamSearch::BeamSearch(Sequence& first, Sequences others, int64_t tokens) : idle(std::move(others)), limit_(tokens) {
  beams_.push_back(&first);
  for (const auto& [id, beam] : idle) beams_.push_back(beam.get());
}

// Even if each beam's best candidates are all tokens that end a text, as many others as there are beams are left.
int64_t BeamSearch::n_candidates(const Sequence& beam) {
  const SamplingParams& p = beam.params;
  const int64_t stops = p.ignore_eos ? 0 : static_cast<int64_t>(p.stop_ids.size());
  return std::max<int64_t>(2, 1 + stops) * p.beams.width;
}

// Equal scores go by number of the beam, then by place among its candidates.
std::vector<BeamSearch::Continuation> BeamSearch::best(
    const std::vector<const std::vector<Candidate>*>& candidates) const {
  const Sequence& first = *beams_[0];
  std::vector<Continuation> all;
  for (size_t beam = 0; beam < candidates.size(); ++beam) {
    for (const Candidate& c : *candidates[beam]) {
      if (std::isinf(c.score)) continue;
      const bool stops = ends_text(first.params, c.token);
      all.push_back({beam, c, stops, stops || first.n_generated() + 1 >= limit_});
    }
  }
  const auto better = [](const Continuation& a, const Continuation& b) {
    return a.candidate.score > b.candidate.score;
  };
  std::stable_sort(all.begin(), all.end(), better);
  all.resize(std::min(all.size(), static_cast<size_t>(n_candidates(first))));
  return all;
}

// Only those among the best `width` that end count: the others are there for beams to live on.
void BeamSearch::finish(BeamStep& step, const std::vector<Continuation>& found) const {
  const auto width = static_cast<size_t>(beams_[0]->params.beams.width);
  step.hypotheses = hypotheses;
  for (size_t i = 0; i < std::min(width, found.size()); ++i) {
    const Continuation& c = found[i];
    if (!c.ends) continue;
    const Sequence& beam = *beams_[c.beam];
    Hypothesis h{{beam.tokens.begin() + beam.n_prompt, beam.tokens.end()}, 0.0f, c.stops};
    h.tokens.push_back(c.candidate.token);
    const auto length = static_cast<int64_t>(h.tokens.size());
    h.score = penalised(c.candidate.score, length, beam.params.beams.length_penalty);
    step.hypotheses.push_back(std::move(h));
  }
  const auto better = [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; };
  std::stable_sort(step.hypotheses.begin(), step.hypotheses.end(), better);
  step.hypotheses.resize(std::min(step.hypotheses.size(), width));
}

bool BeamSearch::is_done(const BeamStep& step) const {
  const BeamParams& p = beams_[0]->params.beams;
  if (step.beams.empty()) return true;
  if (std::cmp_less(step.hypotheses.size(), p.width)) return false;
  if (p.early_stopping == EarlyStopping::kYes) return true;
  const bool grows = p.early_stopping == EarlyStopping::kNever && p.length_penalty > 0.0f;
  const int64_t length = grows ? limit_ : beams_[0]->n_generated() + 1;
  return !(penalised(step.beams[0].score, length, p.length_penalty) > step.hypotheses.back().score);
}

BeamStep BeamSearch::next(const std::vector<const std::vector<Candidate>*>& candidates) const {
  const std::vector<Continuation> found = best(candidates);
  BeamStep step;
  for (const Continuation& c : found) {
    if (c.ends || std::cmp_equal(step.beams.size(), beams_[0]->params.beams.width)) continue;
    const Sequence& parent = *beams_[c.beam];
    BeamStep::Beam beam{c.beam, c.candidate.score, {}, {}};
    beam.tokens.reserve(parent.tokens.size() + 1);
    beam.tokens = parent.tokens;
    beam.tokens.push_back(c.candidate.token);
    beam.block_table.reserve(parent.block_table.size());
    step.beams.push_back(std::move(beam));
  }
  finish(step, found);
  step.done = is_done(step);
  return step;
}

}  // namespace jiffy
