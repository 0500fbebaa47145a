#include "runtime/encoder.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <string>

#include "base/error.h"

namespace jiffy {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPollInterval = std::chrono::milliseconds(50);  // of many short steps; a long one asks for itself

[[noreturn]] void wrong(const std::string& where, const std::string& expected, int64_t found) {
  fail(ErrorKind::kParameter, where, expected, std::to_string(found));
}

void in_range(const std::string& where, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) wrong(where, std::to_string(least) + " to " + std::to_string(most), value);
}

const EncoderOptions& checked(const EncoderOptions& options, const Program& program) {
  in_range("context", options.context, 1, std::min<int64_t>(program.context_length(), INT32_MAX));
  in_range("batch_tokens", options.batch_tokens, 1, 1 << 24);
  if (program.source_shape().n_layers > 0) {
    fail(ErrorKind::kFormat, "program", "no cross-attention: an encoder has no source", "a decoder's");
  }
  return options;
}

KvLayout kv_layout(const Program& program, KvType type) {
  KvLayout layout = program.kv_shape();
  layout.type = type;
  return layout;
}

int64_t blocks_of(int64_t length) { return (length + kBlockSize - 1) / kBlockSize; }

void check_ids(const char* what, const std::vector<int32_t>& ids, int64_t end) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= end) {
      wrong(std::string(what) + "[" + std::to_string(i) + "]", "0 to " + std::to_string(end - 1), ids[i]);
    }
  }
}

// Consecutive sequences of an input, and the views of a step over them.
class Step {
 public:
  // Takes sequences from number `first` on, at least one, until they have `most` tokens; `token` is the first one's.
  Step(const EncoderInput& input, size_t first, int64_t token, int64_t most) : token_(token), end_(first) {
    do {
      const int64_t length = input.lengths[end_++];
      slices_.push_back({n_tokens_, n_tokens_ + length, 0, nullptr});
      for (int64_t i = 0; i < length; ++i) positions_.push_back(static_cast<int32_t>(i));
      n_blocks_ += blocks_of(length);
      n_tokens_ += length;
    } while (end_ < input.lengths.size() && n_tokens_ + input.lengths[end_] <= most);
    type_ids_.assign(static_cast<size_t>(n_tokens_), 0);
    if (!input.type_ids.empty()) std::copy_n(input.type_ids.begin() + token, n_tokens_, type_ids_.begin());
  }

  size_t end() const { return end_; }  // the number of the next sequence
  int64_t n_tokens() const { return n_tokens_; }
  int64_t n_blocks() const { return n_blocks_; }
  int64_t n_outputs() const { return static_cast<int64_t>(output_rows_.size()); }

  void place(const int32_t* block_table) {
    for (SliceView& slice : slices_) {
      slice.block_table = block_table;
      block_table += blocks_of(slice.end - slice.begin);
    }
  }

  void want_first_rows() {
    for (const SliceView& slice : slices_) output_rows_.push_back(static_cast<int32_t>(slice.begin));
  }
  void want_all() {
    output_rows_.resize(static_cast<size_t>(n_tokens_));
    std::iota(output_rows_.begin(), output_rows_.end(), 0);
  }
  void want(const std::vector<int64_t>& tokens) {
    auto at = std::lower_bound(tokens.begin(), tokens.end(), token_);
    for (; at != tokens.end() && *at < token_ + n_tokens_; ++at) {
      output_rows_.push_back(static_cast<int32_t>(*at - token_));
    }
  }

  BatchView view(const EncoderInput& input) const {
    return {.token_ids = input.token_ids.data() + token_,
            .type_ids = type_ids_.data(),
            .positions = positions_.data(),
            .n_tokens = n_tokens_,
            .slices = slices_.data(),
            .n_slices = static_cast<int64_t>(slices_.size()),
            .output_rows = output_rows_.data(),
            .n_outputs = n_outputs()};
  }

 private:
  const int64_t token_;
  size_t end_;
  int64_t n_tokens_ = 0, n_blocks_ = 0;
  std::vector<SliceView> slices_;
  std::vector<int32_t> positions_, type_ids_, output_rows_;
};

}  // namespace

Encoder::Encoder(std::shared_ptr<const Program> program, std::shared_ptr<ThreadPool> pool, const Kernels& kernels,
                 const EncoderOptions& options)
    : process_(getpid()),
      program_(std::move(program)),
      pool_(std::move(pool)),
      kernels_(kernels),
      options_(checked(options, *program_)),
      executor_(program_, *pool_, kernels_),
      kv_(kv_layout(*program_, options_.kv_type)) {}

int64_t Encoder::n_rows(const EncoderInput& input, const Rows& wanted) const {
  if (program_->pools()) return static_cast<int64_t>(input.lengths.size());
  return static_cast<int64_t>(wanted ? wanted->size() : input.token_ids.size());
}

void Encoder::check(const EncoderInput& input, const Rows& wanted) const {
  const auto n_tokens = static_cast<int64_t>(input.token_ids.size());
  int64_t total = 0;
  for (size_t i = 0; i < input.lengths.size(); ++i) {
    const int64_t length = input.lengths[i];
    const std::string where = "lengths[" + std::to_string(i) + "]";
    if (length < 1) wrong(where, "at least 1", length);
    if (length > options_.context) {
      fail(ErrorKind::kContextOverflow, where, "at most " + std::to_string(options_.context) + " tokens, the context",
           std::to_string(length));
    }
    total += length;
  }
  in_range("lengths together", total, n_tokens, n_tokens);
  check_ids("token_ids", input.token_ids, program_->vocab_size());
  if (!input.type_ids.empty()) {
    const auto n = static_cast<int64_t>(input.type_ids.size());
    in_range("type_ids", n, n_tokens, n_tokens);
    check_ids("type_ids", input.type_ids, std::max<int64_t>(1, program_->n_types()));
  }
  if (!wanted) return;
  if (program_->pools()) wrong("rows", "none of a program that pools", static_cast<int64_t>(wanted->size()));
  int64_t least = 0;
  for (const int64_t row : *wanted) {
    in_range("rows", row, least, n_tokens - 1);
    least = row + 1;
  }
}

// Memory for keys and values, and numbers for its blocks, if this step is the largest so far.
void Encoder::reserve_kv(int64_t n_blocks) {
  size_t bytes = 0;
  if (__builtin_mul_overflow(n_blocks, kv_.block_bytes(), &bytes)) {
    fail(ErrorKind::kOutOfMemory, "keys and values", "at most 2^64 bytes", std::to_string(n_blocks) + " blocks");
  }
  if (bytes > kv_memory_.size()) {
    kv_memory_ = Buffer();  // first the old memory back, then the new
    kv_memory_ = Buffer::allocate(bytes, "keys and values of a step");
    kv_.data = kv_memory_.as<uint8_t>();
  }
  for (size_t i = blocks_.size(); i < static_cast<size_t>(n_blocks); ++i) blocks_.push_back(static_cast<int32_t>(i));
}

void Encoder::run(const EncoderInput& input, const Rows& wanted, float* out, const Interrupted& interrupted,
                  const Observer& observer) {
  // The lock could have been held by a thread that fork() did not copy: the process is checked first.
  if (getpid() != process_) {
    fail(ErrorKind::kFork, "encoder", "the process that made it", "a forked child; load the model again");
  }
  const std::unique_lock lock(mutex_);
  check(input, wanted);
  int64_t token = 0;
  auto next_poll = Clock::now() + kPollInterval;
  for (size_t sequence = 0; sequence < input.lengths.size();) {
    if (interrupted && Clock::now() >= next_poll) {
      if (interrupted()) throw Interruption();
      next_poll = Clock::now() + kPollInterval;
    }
    Step step(input, sequence, token, options_.batch_tokens);
    if (program_->pools()) {
      step.want_first_rows();
    } else if (wanted) {
      step.want(*wanted);
    } else {
      step.want_all();
    }
    sequence = step.end();
    token += step.n_tokens();
    if (step.n_outputs() == 0) continue;
    reserve_kv(step.n_blocks());
    step.place(blocks_.data());
    if (!executor_.run(step.view(input), kv_, out, interrupted, observer)) throw Interruption();
    out += step.n_outputs() * width();
  }
}

}  // namespace jiffy
