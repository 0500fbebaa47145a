// What several test files need: a tiny random transformer, a child process, and which sanitizer is watching.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "program/program.h"
#include "quant/weight.h"

namespace jiffy::check {

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = false;
#endif

// Runs `body` in a forked child; true when it returned true within 10 seconds.
bool succeeds_in_child(const std::function<bool()>& body);

std::vector<float> normal_floats(size_t n, unsigned seed, float scale);

// Writes a ProgramSpec instruction by instruction. Methods return the number of the value or parameter that they made.
class Trace {
 public:
  explicit Trace(int64_t context_length) { spec_.context_length = context_length; }

  int value(int64_t width, RowFormat format = {}, Space space = Space::kTokens);
  int matrix(std::shared_ptr<Weight> weight);
  int floats(const std::string& name, std::vector<float> data, int64_t rows = 1);

  // Adds an instruction with one new output.
  int apply(OpKind op, std::vector<int> inputs, std::vector<int> parameters, int64_t width, Attributes attributes = {});
  // Quantises x if the weight asks for it, once for each format.
  int matmul(int x, int weight, int bias = -1);
  void instruction(Instruction at) { spec_.instructions.push_back(std::move(at)); }

  ProgramSpec take(int result);

 private:
  int activations(int x, const WeightFormat& format);

  ProgramSpec spec_;
  std::map<std::pair<int, std::string>, int> quantized_;  // (value, name of a format) -> its quantised rows
};

// A Llama-like model of two layers in six weight formats, small enough to run thousands of steps a second. Token
// kOverflowing makes logits that are not finite; it has none itself, so that it is never chosen.
inline constexpr int64_t kTinyVocab = 36;
inline constexpr int32_t kOverflowing = kTinyVocab;
std::shared_ptr<const Program> tiny_program(int64_t context, bool fused);

}  // namespace jiffy::check
