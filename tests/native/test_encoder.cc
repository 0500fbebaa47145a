// The encoder: each sequence as if it were alone, whatever its companions, the step's size, and what was in memory.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "integer_programs.h"
#include "kernels/cpu/select.h"
#include "runtime/encoder.h"
#include "runtime/engine.h"
#include "support.h"

namespace jiffy {
namespace {

using namespace check;

constexpr int64_t kTypes = 3, kHeads = 2, kHeadDim = 10;

enum class End { kSelect, kPool };

// Embeddings of tokens, types and positions, two layers of bidirectional attention that share their memory, the second
// one biased and in a window.
ProgramSpec encoder_spec(End end, bool apart = false) {
  Trace t(kContext);
  const auto floats = [&](int64_t rows, int64_t cols, unsigned seed) {
    return t.floats("f", normal_floats(static_cast<size_t>(rows * cols), seed, 1.0f), rows);
  };
  const auto embed = [&](int64_t rows, Indices indices) {
    return t.apply(OpKind::kEmbedding, {}, {floats(rows, kDim, static_cast<unsigned>(rows))}, kDim,
                   {.indices = indices});
  };
  int x = embed(kVocab, Indices::kTokens);
  x = t.apply(OpKind::kAdd, {x, embed(kTypes, Indices::kTypes)}, {}, kDim);
  x = t.apply(OpKind::kAdd, {x, embed(kContext, Indices::kPositions)}, {}, kDim);
  for (int64_t layer = 0; layer < 2; ++layer) {
    const Attributes heads{.scale = 0.3f,
                           .layer = apart ? layer : 0,
                           .n_heads = kHeads,
                           .n_kv_heads = kHeads,
                           .head_dim = kHeadDim,
                           .window = layer == 0 ? 0 : 40,
                           .causal = false};
    t.instruction({OpKind::kKvWrite, {x, x}, {}, {}, heads});
    const std::vector<int> bias = layer == 0 ? std::vector<int>{} : std::vector<int>{floats(kHeads, 21, 9)};
    x = t.apply(OpKind::kAdd, {x, t.apply(OpKind::kAttention, {x}, bias, kDim, heads)}, {}, kDim);
  }
  const int rows = t.value(kDim, {}, Space::kOutputs);
  const OpKind last = end == End::kPool ? OpKind::kPool : OpKind::kSelect;
  t.instruction({last, {x}, {rows}, {}, {}});
  return t.take(rows);
}

std::unique_ptr<Encoder> make_encoder(End end, int n_threads = 2, int64_t batch_tokens = 64,
                                      const std::string& isa = "auto", KvType type = KvType::kF32, bool apart = false) {
  const EncoderOptions options{.context = kContext, .batch_tokens = batch_tokens, .kv_type = type};
  return std::make_unique<Encoder>(std::make_shared<const Program>(encoder_spec(end, apart)),
                                   std::make_shared<ThreadPool>(n_threads), select_kernels(isa), options);
}

EncoderInput sequences(const std::vector<int64_t>& lengths) {
  EncoderInput input{{}, {}, lengths};
  for (size_t i = 0; i < lengths.size(); ++i) {
    const std::vector<int32_t> ids = random_ids(lengths[i], static_cast<unsigned>(i + 1));
    input.token_ids.insert(input.token_ids.end(), ids.begin(), ids.end());
  }
  for (size_t i = 0; i < input.token_ids.size(); ++i) {
    input.type_ids.push_back(static_cast<int32_t>(i * i % static_cast<size_t>(kTypes)));
  }
  return input;
}

EncoderInput only(const EncoderInput& all, size_t sequence) {
  int64_t begin = 0;
  for (size_t i = 0; i < sequence; ++i) begin += all.lengths[i];
  const auto part = [&](const std::vector<int32_t>& ids) {
    return std::vector<int32_t>(ids.begin() + begin, ids.begin() + begin + all.lengths[sequence]);
  };
  return {part(all.token_ids), part(all.type_ids), {all.lengths[sequence]}};
}

std::vector<float> encode(Encoder& encoder, const EncoderInput& input, const Encoder::Rows& rows = {}) {
  std::vector<float> out(static_cast<size_t>(encoder.n_rows(input, rows) * encoder.width()));
  encoder.run(input, rows, out.data(), {});
  return out;
}

const std::vector<int64_t> kLengths = {1, 33, 200, 2, 64, 31, 32, 1, 150, 7};

TEST(a_sequence_is_encoded_as_if_it_were_alone) {
  const EncoderInput all = sequences(kLengths);
  for (const End end : {End::kSelect, End::kPool}) {
    for (const KvType type : {KvType::kF32, KvType::kBf16, KvType::kInt8}) {
      const auto alone = make_encoder(end, 1, 1, "scalar", type);
      std::vector<float> expected;
      for (size_t i = 0; i < kLengths.size(); ++i) {
        const std::vector<float> rows = encode(*alone, only(all, i));
        expected.insert(expected.end(), rows.begin(), rows.end());
      }
      for (const std::string& isa : supported_isas()) {
        for (const int n_threads : {1, 3}) {
          for (const int64_t batch_tokens : {1, 70, 1000}) {
            const auto encoder = make_encoder(end, n_threads, batch_tokens, isa, type);
            for (int again = 0; again < 2; ++again) CHECK(encode(*encoder, all) == expected);
          }
        }
      }
    }
  }
}

TEST(layers_may_share_their_memory) {
  const EncoderInput all = sequences(kLengths);
  const auto shared = make_encoder(End::kSelect), apart = make_encoder(End::kSelect, 2, 64, "auto", KvType::kF32, true);
  CHECK(encode(*shared, all) == encode(*apart, all));
}

TEST(chosen_rows_are_those_of_all) {
  const EncoderInput all = sequences(kLengths);
  const auto encoder = make_encoder(End::kSelect);
  const std::vector<float> rows = encode(*encoder, all);
  const std::vector<int64_t> chosen = {0, 1, 2, 40, 233, 234, 400, 520};  // none of some steps
  std::vector<float> expected;
  for (const int64_t row : chosen) {
    expected.insert(expected.end(), rows.begin() + row * kDim, rows.begin() + (row + 1) * kDim);
  }
  CHECK(encode(*encoder, all, chosen) == expected);
  CHECK(encode(*encoder, all, std::vector<int64_t>{}).empty());
  CHECK(encode(*encoder, {}).empty());
}

TEST(without_types_all_are_0) {
  EncoderInput all = sequences({5, 40});
  const auto encoder = make_encoder(End::kSelect);
  std::fill(all.type_ids.begin(), all.type_ids.end(), 0);
  const std::vector<float> expected = encode(*encoder, all);
  all.type_ids.clear();
  CHECK(encode(*encoder, all) == expected);
}

TEST(a_token_sees_those_behind_it) {
  EncoderInput input = sequences({30});
  const auto encoder = make_encoder(End::kSelect);
  const std::vector<float> before = encode(*encoder, input);
  input.token_ids.back() = (input.token_ids.back() + 1) % kVocab;
  CHECK(!std::equal(before.begin(), before.begin() + kDim, encode(*encoder, input).begin()));
}

TEST(bad_input_of_an_encoder_is_refused_before_it_runs) {
  const auto encoder = make_encoder(End::kSelect), pooling = make_encoder(End::kPool);
  const EncoderInput good = sequences({3, 2});
  const auto with = [&](auto&& change) {
    EncoderInput input = good;
    change(input);
    return input;
  };
  const auto refused = [&](ErrorKind kind, auto&& change) {
    const EncoderInput input = with(change);
    CHECK_THROWS(kind, encoder->run(input, {}, nullptr, {}));
  };
  refused(ErrorKind::kParameter, [](EncoderInput& i) { i.token_ids[1] = kVocab; });
  refused(ErrorKind::kParameter, [](EncoderInput& i) { i.token_ids[1] = -1; });
  refused(ErrorKind::kParameter, [](EncoderInput& i) { i.type_ids[4] = kTypes; });
  refused(ErrorKind::kParameter, [](EncoderInput& i) { i.type_ids.pop_back(); });
  refused(ErrorKind::kParameter, [](EncoderInput& i) { i.lengths = {5, 0}; });
  refused(ErrorKind::kParameter, [](EncoderInput& i) { i.lengths = {6, -1}; });
  refused(ErrorKind::kParameter, [](EncoderInput& i) { i.lengths = {3, 3}; });
  refused(ErrorKind::kContextOverflow, [](EncoderInput& i) { i.lengths = {3, kContext + 1}; });
  for (const std::vector<int64_t>& rows : {std::vector<int64_t>{5}, {-1}, {2, 2}, {3, 1}}) {
    CHECK_THROWS(ErrorKind::kParameter, encoder->run(good, rows, nullptr, {}));
  }
  CHECK_THROWS(ErrorKind::kParameter, pooling->run(good, std::vector<int64_t>{0}, nullptr, {}));
  const EncoderOptions wide{.context = kContext + 1};
  CHECK_THROWS(ErrorKind::kParameter, Encoder(std::make_shared<const Program>(encoder_spec(End::kPool)),
                                              std::make_shared<ThreadPool>(1), select_kernels("auto"), wide));
}

TEST(an_interrupted_encoder_goes_on_with_the_next_call) {
  const auto encoder = make_encoder(End::kSelect);
  const EncoderInput all = sequences(kLengths);
  const std::vector<float> expected = encode(*encoder, all);
  std::vector<float> out(expected.size());
  EncoderInput many;
  for (int i = 0; i < 2000; ++i) {
    many.token_ids.insert(many.token_ids.end(), all.token_ids.begin(), all.token_ids.end());
    many.lengths.insert(many.lengths.end(), all.lengths.begin(), all.lengths.end());
  }
  std::vector<float> rows(many.token_ids.size() * static_cast<size_t>(kDim));
  bool interrupted = false;
  try {
    encoder->run(many, {}, rows.data(), [] { return true; });
  } catch (const Interruption&) {
    interrupted = true;
  }
  CHECK(interrupted);
  CHECK(encode(*encoder, all) == expected);
}

TEST(threads_take_turns_at_an_encoder) {
  const auto encoder = make_encoder(End::kSelect);
  const EncoderInput all = sequences(kLengths);
  const std::vector<float> expected = encode(*encoder, all);
  std::vector<std::thread> threads;
  std::vector<char> same(4, 0);
  for (char& one : same) {
    threads.emplace_back([&] {
      one = 1;
      for (int i = 0; i < 5; ++i) one &= encode(*encoder, all) == expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(std::all_of(same.begin(), same.end(), [](char one) { return one != 0; }));
}

TEST(an_encoder_in_a_forked_child_is_an_error) {
  const auto encoder = make_encoder(End::kSelect);
  CHECK(succeeds_in_child([&] {
    try {
      encode(*encoder, sequences({3}));
    } catch (const Error& error) {
      return error.kind == ErrorKind::kFork;
    }
    return false;
  }));
}

// Chunks of a prompt would see each other only backwards, and layers find each other's keys.
TEST(an_engine_refuses_programs_of_whole_sequences) {
  for (const End end : {End::kSelect, End::kPool}) {
    for (const bool apart : {false, true}) {
      const auto program = std::make_shared<const Program>(encoder_spec(end, apart));
      CHECK(program->takes_whole_sequences());
      CHECK_THROWS(ErrorKind::kFormat,
                   Engine(program, std::make_shared<ThreadPool>(1), select_kernels("auto"), {.context = kContext}));
    }
  }
}

TEST(tables_of_positions_cover_the_context) {
  ProgramSpec spec = encoder_spec(End::kSelect);
  spec.context_length = kContext + 1;
  CHECK_THROWS(ErrorKind::kFormat, Program(std::move(spec)));
}

}  // namespace
}  // namespace jiffy
