#include "runtime/engine.h"

#include <unistd.h>

#include <algorithm>
#include <string>

namespace jiffy {
namespace {

// KV memory that is set aside for each of max_batch, beside one whole context.
constexpr int64_t kPositionsPerSequence = 256;

const EngineOptions& checked(const EngineOptions& options, const Program& program) {
  const auto check = [](const char* name, int64_t value, int64_t most) {
    if (value < 1 || value > most) {
      fail(ErrorKind::kParameter, name, "1 to " + std::to_string(most), std::to_string(value));
    }
  };
  check("context", options.context, std::min<int64_t>(program.context_length(), INT32_MAX));  // positions are int32
  check("max_batch", options.max_batch, 1 << 16);
  check("prefill_chunk", options.prefill_chunk, 1 << 16);
  if (program.result_width() > program.vocab_size()) {  // a token would be chosen that has no embedding
    fail(ErrorKind::kFormat, "program result",
         "at most " + std::to_string(program.vocab_size()) + " logits, the vocabulary",
         std::to_string(program.result_width()));
  }
  return options;
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
      cache_(program_->kv_shape(), options_.context + options_.max_batch * kPositionsPerSequence),
      scheduler_(cache_.pool(), options_.max_batch, options_.prefill_chunk),
      sampler_(kernels_) {}

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

int64_t Engine::add(std::vector<int32_t> prompt, SamplingParams params) {
  const auto lock = enter();
  check_tokens(prompt);
  params.validate();
  auto sequence = std::make_unique<Sequence>();
  sequence->id = next_id_++;
  sequence->n_prompt = static_cast<int64_t>(prompt.size());
  sequence->tokens = std::move(prompt);
  const int64_t room = options_.context + 1 - sequence->n_prompt;  // the last token is never computed
  sequence->tokens.reserve(static_cast<size_t>(sequence->n_prompt + std::min(params.max_tokens, room)));
  sequence->params = std::move(params);
  const int64_t id = sequence->id;
  scheduler_.add(std::move(sequence));
  return id;
}

// The token behind a sequence whose tokens are all computed.
TokenEvent Engine::choose(const Sequence& s, const float* logits) {
  TokenEvent event{.request = s.id, .token = 0, .reason = FinishReason::kNone, .error = nullptr};
  const std::optional<int32_t> token = sampler_.sample(logits, vocab_size(), s.params, s.n_generated());
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
  } else if (s.n_generated() + 1 >= s.params.max_tokens || s.n_tokens() >= options_.context) {
    event.reason = FinishReason::kLength;
  }
  return event;
}

// Allocates nothing, so that a step is done for all of its sequences or for none.
void Engine::commit(const std::vector<Slice>& slices, const std::vector<TokenEvent>& events) {
  auto event = events.begin();
  for (const Slice& slice : slices) {
    slice.sequence->n_computed += slice.count;
    if (slice.output) slice.sequence->tokens.push_back((event++)->token);
  }
  for (const TokenEvent& e : events) {
    if (e.reason != FinishReason::kNone) scheduler_.remove(e.request);
  }
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
  reserve_logits(batch.n_outputs());
  if (!executor_.run(batch.view(), cache_.layout(), logits_.as<float>(), interrupted, observer)) throw Interruption();
  std::vector<TokenEvent> events;
  for (const Slice& slice : slices) {
    const int64_t row = static_cast<int64_t>(events.size());
    if (slice.output) events.push_back(choose(*slice.sequence, logits_.as<float>() + row * vocab_size()));
  }
  commit(slices, events);
  return events;
}

void Engine::cancel(int64_t request) {
  const auto lock = enter();
  scheduler_.remove(request);
}

void Engine::logits(std::vector<int32_t> tokens, float* out, const Interrupted& interrupted, const Observer& observer) {
  const auto lock = enter();
  check_tokens(tokens);
  Sequence sequence;
  sequence.tokens = std::move(tokens);
  struct Release {
    Scheduler& scheduler;
    Sequence& sequence;
    ~Release() { scheduler.release_blocks(sequence); }
  } const release{scheduler_, sequence};
  while (sequence.n_waiting() > 0) {
    const int64_t count = std::min(options_.prefill_chunk, sequence.n_waiting());
    if (!scheduler_.reserve(sequence, sequence.n_computed + count)) {
      fail(ErrorKind::kInternal, "logits", "a KV cache of at least one context",
           std::to_string(cache_.pool().n_blocks()) + " blocks");
    }
    const Batch batch({{&sequence, count, true}}, true);
    float* rows = out + sequence.n_computed * vocab_size();
    if (!executor_.run(batch.view(), cache_.layout(), rows, interrupted, observer)) throw Interruption();
    sequence.n_computed += count;
  }
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

}  // namespace jiffy
