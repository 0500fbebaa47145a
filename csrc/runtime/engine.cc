#include "runtime/engine.h"

#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <string>

namespace jiffy {
namespace {

// KV memory that is set aside for each of max_batch, beside one whole context.
constexpr int64_t kPositionsPerSequence = 256;

// Rows of logits that score() holds at once: enough for the integer peak, and no more than a full batch has.
constexpr int64_t kScoredAtOnce = 64;

constexpr int64_t kMostCompletions = 1024;  // of one request

const EngineOptions& checked(const EngineOptions& options, const Program& program) {
  const auto check = [](const char* name, int64_t value, int64_t most) {
    if (value < 1 || value > most) {
      fail(ErrorKind::kParameter, name, "1 to " + std::to_string(most), std::to_string(value));
    }
  };
  check("context", options.context, std::min<int64_t>(program.context_length(), INT32_MAX));  // positions are int32
  check("max_batch", options.max_batch, 1 << 16);
  check("prefill_chunk", options.prefill_chunk, 1 << 16);
  if (program.takes_whole_sequences() || program.n_types() > 0) {
    fail(ErrorKind::kFormat, "program", "tokens that depend on those before them alone, with layers of their own",
         "an encoder's");
  }
  if (program.result_width() > program.vocab_size()) {  // a token would be chosen that has no embedding
    fail(ErrorKind::kFormat, "program result",
         "at most " + std::to_string(program.vocab_size()) + " logits, the vocabulary",
         std::to_string(program.result_width()));
  }
  return options;
}

KvLayout kv_layout(const Program& program, KvType type) {
  KvLayout layout = program.kv_shape();
  layout.type = type;
  return layout;
}

}  // namespace

Engine::Engine(std::shared_ptr<const Program> program, std::shared_ptr<ThreadPool> pool, const Kernels& kernels,
               const EngineOptions& options, std::shared_ptr<Encoder> encoder,
               std::shared_ptr<const Shortlist> shortlist)
    : process_(getpid()),
      program_(std::move(program)),
      pool_(std::move(pool)),
      kernels_(kernels),
      options_(checked(options, *program_)),
      executor_(program_, *pool_, kernels_),
      cache_(kv_layout(*program_, options_.kv_type), options_.context + options_.max_batch * kPositionsPerSequence,
             options_.prefix_cache && encoder == nullptr),  // what a token's keys are depends on the source, too
      scheduler_(cache_.pool(), options_.max_batch, options_.prefill_chunk,
                 [this](int32_t from, int32_t to) { copies_.push_back({from, to}); }),
      choosing_(*pool_, kernels_),
      log_softmax_(kernels_) {
  KvLayout source = program_->source_shape();
  if ((encoder != nullptr) != (source.n_layers > 0)) {
    fail(ErrorKind::kFormat, "program", "cross-attention beside an encoder", encoder ? "none" : "no encoder");
  }
  if (shortlist != nullptr) {
    if (encoder == nullptr) fail(ErrorKind::kParameter, "shortlist", "an encoder beside it", "none");
    candidate_maker_.emplace(std::move(shortlist), executor_.head(), program_->parameters(), *pool_);
  }
  if (encoder == nullptr) return;
  source.type = options_.kv_type;
  const int64_t positions = encoder->context() + options_.max_batch * kPositionsPerSequence;
  reader_.emplace(std::move(encoder), *pool_, kernels_, source, positions);
}

// The lock could have been held by a thread that fork() did not copy: the process is checked first.
std::unique_lock<std::mutex> Engine::enter() const {
  if (getpid() != process_) {
    fail(ErrorKind::kFork, "engine", "the process that made it", "a forked child; load the model again");
  }
  return std::unique_lock(mutex_);
}

void Engine::check_tokens(const std::vector<int32_t>& tokens) const {
  if (tokens.empty()) fail(ErrorKind::kParameter, "prompt", "at least one token", "none");
  if (static_cast<int64_t>(tokens.size()) > options_.context) {
    fail(ErrorKind::kContextOverflow, "prompt", "at most " + std::to_string(options_.context) + " tokens, the context",
         std::to_string(tokens.size()));
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= program_->vocab_size()) {
      fail(ErrorKind::kParameter, "token_ids[" + std::to_string(i) + "]",
           "0 to " + std::to_string(program_->vocab_size() - 1), std::to_string(tokens[i]));
    }
  }
}

std::unique_ptr<Sequence> Engine::make_sequence(const std::vector<int32_t>& prompt, const SamplingParams& params,
                                                std::shared_ptr<SourceText> source) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = next_id_++;
  sequence->n_prompt = static_cast<int64_t>(prompt.size());
  const int64_t room = options_.context + 1 - sequence->n_prompt;  // the last token is never computed
  sequence->tokens.reserve(prompt.size() + static_cast<size_t>(std::min(params.max_tokens, room)));
  sequence->tokens = prompt;
  sequence->params = params;
  sequence->source = std::move(source);
  return sequence;
}

void Engine::check_beams(const SamplingParams& params, int64_t n) const {
  if (params.beams.width > options_.max_batch) {
    fail(ErrorKind::kParameter, "n_beams", "at most max_batch, " + std::to_string(options_.max_batch),
         std::to_string(params.beams.width));
  }
  if (params.searches() && n > 1) fail(ErrorKind::kParameter, "n", "1 beside beams", std::to_string(n));
}

void Engine::check_constraints(const Constraints& c) const {
  const auto check = [this](const char* name, int64_t id, int64_t least) {
    if (id >= least && id < vocab_size()) return;
    fail(ErrorKind::kParameter, name, "token ids below " + std::to_string(vocab_size()), std::to_string(id));
  };
  check("forced_bos_token_id", c.forced_first, -1);
  check("forced_eos_token_id", c.forced_last, -1);
  for (const std::vector<int32_t>& run : c.bad_words) {
    for (const int32_t id : run) check("bad_words_ids", id, 0);
  }
}

// nullptr for a program without cross-attention.
std::shared_ptr<SourceText> Engine::source_text(std::vector<int32_t> tokens) {
  if (reader_) return reader_->text(std::move(tokens));
  if (!tokens.empty()) fail(ErrorKind::kParameter, "source", "none: no encoder would read it", "tokens");
  return nullptr;
}

int64_t Engine::add(std::vector<int32_t> prompt, SamplingParams params, int64_t n, std::vector<int32_t> source) {
  const auto lock = enter();
  check_tokens(prompt);
  params.validate();
  if (n < 1 || n > kMostCompletions) {
    fail(ErrorKind::kParameter, "n", "1 to " + std::to_string(kMostCompletions), std::to_string(n));
  }
  check_beams(params, n);
  check_constraints(params.constraints);
  const std::shared_ptr<SourceText> text = source_text(std::move(source));
  auto first = make_sequence(prompt, params, text);
  if (params.searches()) {
    Sequences others;
    for (int64_t i = 1; i < params.beams.width; ++i) {
      auto beam = make_sequence(prompt, params, text);
      others.emplace(beam->id, std::move(beam));
    }
    first->search = std::make_shared<BeamSearch>(*first, std::move(others), most_generated(*first, options_.context));
  }
  for (int64_t i = 1; i < n; ++i) {
    auto child = make_sequence(prompt, params, text);
    child->params.seed = completion_seed(params.seed, i);
    first->children.emplace(child->id, std::move(child));
  }
  const int64_t id = first->id;
  scheduler_.add(std::move(first));
  return id;
}

// Allocates nothing, so that a step is done for all of its sequences or for none.
void Engine::commit(const std::vector<Slice>& slices, std::vector<Outcome>& outcomes, std::vector<Turn>& turns) {
  auto outcome = outcomes.begin();
  for (const Slice& slice : slices) {
    Sequence& s = *slice.sequence;
    s.n_computed += slice.count;
    if (!slice.output) continue;
    auto event = outcome->events.begin();
    if (s.search != nullptr ? !outcome->candidates.empty() : !event->error) scheduler_.register_blocks(s);
    if (s.search != nullptr) {
      s.candidates.swap(outcome->candidates);
    } else {
      s.tokens.push_back((event++)->token);
      for (const auto& [id, child] : s.children) child->tokens.push_back((event++)->token);
    }
    ++outcome;
  }
  for (const Outcome& o : outcomes) {
    for (const TokenEvent& e : o.events) {
      if (e.reason != FinishReason::kNone) scheduler_.remove(e.request);
    }
  }
  for (Turn& turn : turns) {
    if (turn.end) {
      scheduler_.remove(turn.end->request);
    } else {
      scheduler_.go_on(*turn.search, turn.step);
    }
  }
  scheduler_.fork();
}

void Engine::reserve_logits(int64_t n_outputs) {
  const size_t bytes = static_cast<size_t>(n_outputs * vocab_size()) * sizeof(float);
  if (logits_.size() >= bytes) return;
  logits_ = Buffer();  // first the old memory back, then the new
  logits_ = Buffer::allocate(bytes, "logits of " + std::to_string(n_outputs) + " sequences");
}

std::vector<TokenEvent> Engine::step(const Interrupted& interrupted, const Observer& observer) {
  const auto lock = enter();
  const std::vector<Slice> slices = schedule();
  if (slices.empty()) return {};
  read_sources(slices, interrupted, observer);
  make_candidates(slices);
  const Batch batch(slices, false, reader_ ? &reader_->layout() : nullptr);
  std::vector<const Sequence*> rows;  // children's parameters are their parent's, but for the seed
  for (const Slice& slice : slices) {
    if (slice.output) rows.push_back(slice.sequence);
  }
  std::vector<Outcome> outcomes = compute(batch, rows, interrupted, observer);
  std::vector<Turn> turns = jiffy::turns(rows, outcomes);
  std::vector<TokenEvent> events;
  for (const Outcome& o : outcomes) events.insert(events.end(), o.events.begin(), o.events.end());
  for (const Turn& turn : turns) {
    if (turn.end) events.push_back(*turn.end);
  }
  commit(slices, outcomes, turns);
  return events;
}

// What the scheduler has asked for is copied at once, even if it throws then: its tables say so.
std::vector<Slice> Engine::schedule() {
  copies_.clear();
  copies_.reserve(static_cast<size_t>(scheduler_.n_running()));
  struct Copy {
    Engine& engine;
    ~Copy() { engine.cache_.copy_blocks(engine.copies_, *engine.pool_); }
  } const copy{*this};
  return scheduler_.schedule();
}

void Engine::read_sources(const std::vector<Slice>& slices, const Interrupted& interrupted, const Observer& observer) {
  std::vector<SourceText*> texts;
  for (const Slice& slice : slices) {
    SourceText* const text = slice.sequence->source.get();
    const bool seen = std::find(texts.begin(), texts.end(), text) != texts.end();
    if (text != nullptr && !text->encoded && !seen) texts.push_back(text);
  }
  if (!texts.empty()) reader_->read(texts, interrupted, observer);
}

void Engine::make_candidates(const std::vector<Slice>& slices) {
  if (!candidate_maker_) return;
  std::vector<SourceText*> texts;
  std::vector<std::vector<int32_t>> forced;
  for (const Slice& slice : slices) {
    SourceText* const text = slice.sequence->source.get();
    if (text->candidates != nullptr || !candidate_maker_->serves(*text)) continue;
    if (std::find(texts.begin(), texts.end(), text) != texts.end()) continue;
    texts.push_back(text);
    forced.emplace_back();
    const Constraints& c = slice.sequence->params.constraints;
    for (const int32_t id : {c.forced_first, c.forced_last}) {
      if (id >= 0) forced.back().push_back(id);
    }
  }
  if (!texts.empty()) candidate_maker_->make(texts, forced);
}

std::vector<Outcome> Engine::compute(const Batch& batch, const std::vector<const Sequence*>& rows,
                                     const Interrupted& interrupted, const Observer& observer) {
  const int64_t enough = executor_.head() != nullptr ? choosing_.n_enough(rows) : 0;
  if (enough > 0) {
    kept_.most = enough;
    kept_.sums = rows[0]->search != nullptr;
  } else {
    reserve_logits(batch.n_outputs());
  }
  const Wanted wanted = enough > 0 ? Wanted::only(kept_) : Wanted(logits_.as<float>());
  if (!executor_.run(batch.view(), cache_.layout(), wanted, interrupted, observer)) throw Interruption();
  if (enough > 0) return choosing_.choose(rows, kept_, options_.context);
  return choosing_.choose(rows, logits_.as<float>(), vocab_size(), options_.context);
}

void Engine::cancel(int64_t request) {
  const auto lock = enter();
  scheduler_.remove(request);
}

// Every row's logits, `chunk` tokens at a time: those of the tokens from `position` on go to place(position), then
// done(position, count) is called. Needs all rows, so takes over none, and leaves none behind.
template <class Place, class Done>
void Engine::compute_alone(std::vector<int32_t> tokens, std::vector<int32_t> source, int64_t chunk,
                           const Interrupted& interrupted, const Observer& observer, Place&& place, Done&& done) {
  Sequence sequence;
  sequence.tokens = std::move(tokens);
  sequence.source = source_text(std::move(source));
  if (sequence.source != nullptr) {
    if (!sequence.source->reserve()) {
      fail(ErrorKind::kOutOfMemory, "source", "room beside the source texts of running requests", "none");
    }
    reader_->read({sequence.source.get()}, interrupted);
  }
  struct Release {
    Scheduler& scheduler;
    Sequence& sequence;
    ~Release() { scheduler.release_blocks(sequence); }
  } const release{scheduler_, sequence};
  while (sequence.n_waiting() > 0) {
    const int64_t position = sequence.n_computed, count = std::min(chunk, sequence.n_waiting());
    if (!scheduler_.reserve(sequence, position + count)) {
      fail(ErrorKind::kInternal, "logits", "a KV cache of at least one context",
           std::to_string(cache_.pool().n_blocks()) + " blocks");
    }
    const Batch batch({{&sequence, count, true}}, true, reader_ ? &reader_->layout() : nullptr);
    if (!executor_.run(batch.view(), cache_.layout(), place(position), interrupted, observer)) throw Interruption();
    sequence.n_computed += count;
    done(position, count);
  }
}

void Engine::logits(std::vector<int32_t> tokens, float* out, const Interrupted& interrupted, const Observer& observer,
                    std::vector<int32_t> source) {
  const auto lock = enter();
  check_tokens(tokens);
  const auto place = [&](int64_t position) { return out + position * vocab_size(); };
  compute_alone(std::move(tokens), std::move(source), options_.prefill_chunk, interrupted, observer, place,
                [](int64_t, int64_t) {});
}

void Engine::score(std::vector<int32_t> tokens, float* out, const Interrupted& interrupted) {
  const auto lock = enter();
  check_tokens(tokens);
  const std::vector<int32_t> wanted(tokens.begin() + 1, tokens.end());
  tokens.pop_back();
  const int64_t chunk = std::min({options_.prefill_chunk, kScoredAtOnce, static_cast<int64_t>(wanted.size())});
  reserve_logits(chunk);
  const auto place = [&](int64_t) { return logits_.as<float>(); };
  compute_alone(std::move(tokens), {}, chunk, interrupted, {}, place, [&](int64_t position, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t token = wanted[static_cast<size_t>(position + i)];
      log_softmax_.read(logits_.as<float>() + i * vocab_size(), vocab_size());
      out[position + i] = token < vocab_size() ? log_softmax_.of(token) : -std::numeric_limits<float>::infinity();
    }
  });
}

bool Engine::idle() const {
  const auto lock = enter();
  return scheduler_.idle();
}

int64_t Engine::n_blocks() const { return cache_.pool().n_blocks(); }

int64_t Engine::n_free_blocks() const {
  const auto lock = enter();
  return cache_.pool().n_free();
}

int64_t Engine::n_free_source_blocks() const {
  const auto lock = enter();
  return reader_ ? reader_->pool().n_free() : 0;
}

int64_t Engine::n_cached_tokens() const {
  const auto lock = enter();
  return scheduler_.n_cached_tokens();
}

}  // namespace jiffy
