#include "runtime/engine.h"

#include <unistd.h>

#include <algorithm>
#include <exception>
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
               const EngineOptions& options)
    : process_(getpid()),
      program_(std::move(program)),
      pool_(std::move(pool)),
      kernels_(kernels),
      options_(checked(options, *program_)),
      executor_(program_, *pool_, kernels_),
      cache_(kv_layout(*program_, options_.kv_type), options_.context + options_.max_batch * kPositionsPerSequence,
             options_.prefix_cache),
      scheduler_(cache_.pool(), options_.max_batch, options_.prefill_chunk,
                 [this](int32_t from, int32_t to) { cache_.copy_block(from, to); }),
      choosers_(static_cast<size_t>(pool_->size()), Chooser(kernels_)),
      log_softmax_(kernels_) {}

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

std::unique_ptr<Sequence> Engine::make_sequence(const std::vector<int32_t>& prompt, const SamplingParams& params) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = next_id_++;
  sequence->n_prompt = static_cast<int64_t>(prompt.size());
  const int64_t room = options_.context + 1 - sequence->n_prompt;  // the last token is never computed
  sequence->tokens.reserve(prompt.size() + static_cast<size_t>(std::min(params.max_tokens, room)));
  sequence->tokens = prompt;
  sequence->params = params;
  return sequence;
}

int64_t Engine::add(std::vector<int32_t> prompt, SamplingParams params, int64_t n) {
  const auto lock = enter();
  check_tokens(prompt);
  params.validate();
  if (n < 1 || n > kMostCompletions) {
    fail(ErrorKind::kParameter, "n", "1 to " + std::to_string(kMostCompletions), std::to_string(n));
  }
  auto first = make_sequence(prompt, params);
  for (int64_t i = 1; i < n; ++i) {
    auto child = make_sequence(prompt, params);
    child->params.seed = completion_seed(params.seed, i);
    first->children.emplace(child->id, std::move(child));
  }
  const int64_t id = first->id;
  scheduler_.add(std::move(first));
  return id;
}

// The events of the sequences whose logits are the rows of logits_, a row's children behind it. A lane takes a row at a
// time; what one of them throws is thrown when all are done.
std::vector<TokenEvent> Engine::choose(const std::vector<const Sequence*>& rows) {
  std::vector<std::vector<TokenEvent>> of_row(rows.size());
  std::vector<std::exception_ptr> thrown(choosers_.size());
  pool_->run([&](Lane& lane) {
    Chooser& chooser = choosers_[static_cast<size_t>(lane.id())];
    const auto choose_row = [&](size_t r) {
      float* logits = logits_.as<float>() + static_cast<int64_t>(r) * vocab_size();
      of_row[r].push_back(chooser.choose(*rows[r], logits, vocab_size(), options_.context));
      for (const auto& [id, child] : rows[r]->children) {
        of_row[r].push_back(chooser.choose(*child, logits, vocab_size(), options_.context));
      }
    };
    try {
      for (size_t r; (r = static_cast<size_t>(lane.next_chunk())) < rows.size();) choose_row(r);
    } catch (...) {
      thrown[static_cast<size_t>(lane.id())] = std::current_exception();
    }
  });
  for (const std::exception_ptr& e : thrown) {
    if (e) std::rethrow_exception(e);
  }
  std::vector<TokenEvent> events;
  for (std::vector<TokenEvent>& some : of_row) std::move(some.begin(), some.end(), std::back_inserter(events));
  return events;
}

// The same where the largest logits are known, and all that matters.
std::vector<TokenEvent> Engine::likeliest(const std::vector<const Sequence*>& rows) const {
  std::vector<TokenEvent> events;
  for (size_t r = 0; r < rows.size(); ++r) {
    const auto token = likeliest_[r] < 0 ? std::nullopt : std::optional(likeliest_[r]);
    events.push_back(token_event(*rows[r], token, options_.context));
    for (const auto& [id, child] : rows[r]->children) events.push_back(token_event(*child, token, options_.context));
  }
  return events;
}

// Allocates nothing, so that a step is done for all of its sequences or for none.
void Engine::commit(const std::vector<Slice>& slices, const std::vector<TokenEvent>& events) {
  auto event = events.begin();
  for (const Slice& slice : slices) {
    Sequence& s = *slice.sequence;
    s.n_computed += slice.count;
    if (!slice.output) continue;
    if (!event->error) scheduler_.register_blocks(s);
    s.tokens.push_back((event++)->token);
    for (const auto& [id, child] : s.children) child->tokens.push_back((event++)->token);
  }
  for (const TokenEvent& e : events) {
    if (e.reason != FinishReason::kNone) scheduler_.remove(e.request);
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
  const std::vector<Slice> slices = scheduler_.schedule();
  if (slices.empty()) return {};
  const Batch batch(slices);
  std::vector<const Sequence*> rows;  // children's parameters are their parent's, but for the seed
  for (const Slice& slice : slices) {
    if (slice.output) rows.push_back(slice.sequence);
  }
  const bool without_logits = executor_.finds_likeliest() && std::all_of(rows.begin(), rows.end(), [](auto* s) {
                                return s->params.wants_likeliest();
                              });
  if (without_logits) {
    likeliest_.resize(rows.size());
  } else {
    reserve_logits(batch.n_outputs());
  }
  const Wanted wanted = without_logits ? Wanted::only_likeliest(likeliest_.data()) : Wanted(logits_.as<float>());
  if (!executor_.run(batch.view(), cache_.layout(), wanted, interrupted, observer)) throw Interruption();
  std::vector<TokenEvent> events = without_logits ? likeliest(rows) : choose(rows);
  commit(slices, events);
  return events;
}

void Engine::cancel(int64_t request) {
  const auto lock = enter();
  scheduler_.remove(request);
}

// Every row's logits, `chunk` tokens at a time: those of the tokens from `position` on go to place(position), then
// done(position, count) is called. Needs all rows, so takes over none, and leaves none behind.
template <class Place, class Done>
void Engine::compute_alone(std::vector<int32_t> tokens, int64_t chunk, const Interrupted& interrupted,
                           const Observer& observer, Place&& place, Done&& done) {
  Sequence sequence;
  sequence.tokens = std::move(tokens);
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
    const Batch batch({{&sequence, count, true}}, true);
    if (!executor_.run(batch.view(), cache_.layout(), place(position), interrupted, observer)) throw Interruption();
    sequence.n_computed += count;
    done(position, count);
  }
}

void Engine::logits(std::vector<int32_t> tokens, float* out, const Interrupted& interrupted, const Observer& observer) {
  const auto lock = enter();
  check_tokens(tokens);
  const auto place = [&](int64_t position) { return out + position * vocab_size(); };
  compute_alone(std::move(tokens), options_.prefill_chunk, interrupted, observer, place, [](int64_t, int64_t) {});
}

void Engine::score(std::vector<int32_t> tokens, float* out, const Interrupted& interrupted) {
  const auto lock = enter();
  check_tokens(tokens);
  const std::vector<int32_t> wanted(tokens.begin() + 1, tokens.end());
  tokens.pop_back();
  const int64_t chunk = std::min({options_.prefill_chunk, kScoredAtOnce, static_cast<int64_t>(wanted.size())});
  reserve_logits(chunk);
  const auto place = [&](int64_t) { return logits_.as<float>(); };
  compute_alone(std::move(tokens), chunk, interrupted, {}, place, [&](int64_t position, int64_t count) {
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

int64_t Engine::n_cached_tokens() const {
  const auto lock = enter();
  return scheduler_.n_cached_tokens();
}

}  // namespace jiffy
