#include "runtime/choosing.h"

#include <algorithm>
#include <exception>
#include <optional>
#include <utility>

namespace jiffy {
namespace {

using Rows = std::vector<const Sequence*>;

constexpr int64_t kMostKept = 64;  // logits of a row: to keep more of them in order costs more than to store all

// The candidates of a beam, as this step or one before it has found them; nullptr if they are still to come.
const std::vector<Candidate>* candidates_of(const Sequence& beam, const Rows& rows,
                                            const std::vector<Outcome>& outcomes) {
  if (beam.waits_for_others()) return &beam.candidates;
  const auto row = std::find(rows.begin(), rows.end(), &beam);
  return row == rows.end() ? nullptr : &outcomes[static_cast<size_t>(row - rows.begin())].candidates;
}

const Candidates* candidates(const Sequence& s) { return s.source != nullptr ? s.source->candidates.get() : nullptr; }

LogitRow logit_row(const Sequence& s, float* values, int64_t vocab_size) {
  const Candidates* const some = candidates(s);
  if (some == nullptr) return {values, vocab_size};
  return {values, static_cast<int64_t>(some->ids.size()), some->ids.data()};
}

TokenEvent end_of_search(int64_t request, const BeamStep& step, const BeamParams& params) {
  if (step.hypotheses.empty()) return failure(request, none_allowed());
  TokenEvent event;
  event.request = request;
  event.reason = step.hypotheses[0].stopped ? FinishReason::kStop : FinishReason::kLength;
  const size_t n = std::min(step.hypotheses.size(), static_cast<size_t>(params.n));
  event.hypotheses.assign(step.hypotheses.begin(), step.hypotheses.begin() + static_cast<std::ptrdiff_t>(n));
  return event;
}

// None if the search has to wait for candidates.
std::optional<Turn> turn(BeamSearch& search, const Rows& rows, const std::vector<Outcome>& outcomes) {
  const Sequence& first = *search.beams()[0];
  std::vector<const std::vector<Candidate>*> candidates;
  bool failed = false;
  for (size_t i = 0; i < search.n_live; ++i) {
    candidates.push_back(candidates_of(*search.beams()[i], rows, outcomes));
    failed = failed || (candidates.back() != nullptr && candidates.back()->empty());
  }
  if (failed) return Turn{&search, {}, failure(first.id, not_finite())};
  if (std::find(candidates.begin(), candidates.end(), nullptr) != candidates.end()) return {};
  Turn found{&search, search.next(candidates), {}};
  if (found.step.done) found.end = end_of_search(first.id, found.step, first.params.beams);
  return found;
}

}  // namespace

Choosing::Choosing(ThreadPool& pool, const Kernels& kernels)
    : pool_(pool), choosers_(static_cast<size_t>(pool.size()), Chooser(kernels)) {}

// body(chooser, row, its outcome)
template <class Body>
std::vector<Outcome> Choosing::each_row(const Rows& rows, Body&& body) {
  std::vector<Outcome> outcomes(rows.size());
  std::vector<std::exception_ptr> thrown(choosers_.size());
  pool_.run([&](Lane& lane) {
    Chooser& chooser = choosers_[static_cast<size_t>(lane.id())];
    try {
      for (size_t r; (r = static_cast<size_t>(lane.next_chunk())) < rows.size();) body(chooser, r, outcomes[r]);
    } catch (...) {
      thrown[static_cast<size_t>(lane.id())] = std::current_exception();
    }
  });
  for (const std::exception_ptr& e : thrown) {
    if (e) std::rethrow_exception(e);
  }
  return outcomes;
}

std::vector<Outcome> Choosing::choose(const Rows& rows, float* logits, int64_t vocab_size, int64_t context) {
  return each_row(rows, [&](Chooser& chooser, size_t r, Outcome& outcome) {
    const Sequence& s = *rows[r];
    const LogitRow row = logit_row(s, logits + static_cast<int64_t>(r) * vocab_size, vocab_size);
    if (s.search != nullptr) {
      outcome.candidates = chooser.candidates(s, row, context);
      return;
    }
    outcome.events.push_back(chooser.choose(s, row, context));
    for (const auto& [id, child] : s.children) outcome.events.push_back(chooser.choose(*child, row, context));
  });
}

int64_t Choosing::n_enough(const Rows& rows) {
  if (rows.empty()) return 0;
  const bool searches = rows[0]->search != nullptr;
  int64_t most = 1;
  for (const Sequence* s : rows) {
    if (searches ? s->search == nullptr : !s->params.wants_likeliest()) return 0;
    if (searches) most = std::max(most, choosers_[0].n_wanted(*s));
  }
  return most <= kMostKept ? most : 0;
}

std::vector<Outcome> Choosing::choose(const Rows& rows, const KeptLogits& kept, int64_t context) {
  return each_row(rows, [&](Chooser& chooser, size_t r, Outcome& outcome) {
    const Sequence& s = *rows[r];
    const LogitRow row = logit_row(s, nullptr, 0);
    if (s.search != nullptr) {
      outcome.candidates = chooser.candidates(s, kept, r, row, context);
      return;
    }
    const int32_t place = kept.row(r)->place;
    const std::optional<int32_t> token = place < 0 ? std::nullopt : std::optional(row.id(place));
    outcome.events.push_back(token_event(s, token, context));
    for (const auto& [id, child] : s.children) outcome.events.push_back(token_event(*child, token, context));
  });
}

std::vector<Turn> turns(const Rows& rows, const std::vector<Outcome>& outcomes) {
  std::vector<Turn> found;
  std::vector<const BeamSearch*> seen;
  for (const Sequence* row : rows) {
    BeamSearch* const search = row->search.get();
    if (search == nullptr || std::find(seen.begin(), seen.end(), search) != seen.end()) continue;
    seen.push_back(search);
    if (std::optional<Turn> one = turn(*search, rows, outcomes)) found.push_back(std::move(*one));
  }
  return found;
}

}  // namespace jiffy
