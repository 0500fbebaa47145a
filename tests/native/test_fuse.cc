// Which buffers the values of a program share, and what is fused.
#include <algorithm>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "one_layer.h"
#include "program/program.h"

namespace jiffy {
namespace {

using check::find;
using check::one_layer_fused_spec;
using check::one_layer_spec;
using check::Trace;
using check::zero_weight;
using namespace check::one_layer;

using Break = std::function<void(ProgramSpec&)>;

std::vector<std::string> op_names(const ProgramSpec& spec) {
  std::vector<std::string> names;
  for (const Instruction& at : spec.instructions) names.emplace_back(op(at.op).name);
  return names;
}

// Plays the plan: nothing is written into a slot that holds a value which is still to be read, this instruction
// included; and what a replicated instruction reads, slow lanes may read until the next one that is not.
void check_plan(const Program& program) {
  const Plan plan = plan_buffers(program);
  const std::vector<Instruction>& all = program.instructions();
  std::vector<size_t> last_read(program.values().size(), 0);
  for (size_t i = 0; i < all.size(); ++i) {
    size_t until = i;
    while (until < all.size() && plan.replicated[until]) ++until;
    for (const std::vector<int>* list : {&all[i].inputs, &all[i].outputs}) {
      for (const int v : *list) last_read[static_cast<size_t>(v)] = until;
    }
  }
  std::vector<int> live;
  size_t most_live = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    std::erase_if(live, [&](int v) { return last_read[static_cast<size_t>(v)] < i; });
    for (const int v : all[i].outputs) {
      const int slot = plan.slot_of[static_cast<size_t>(v)];
      CHECK_EQ(slot == -1, v == program.result());
      if (slot < 0) continue;
      for (const int other : live) CHECK(plan.slot_of[static_cast<size_t>(other)] != slot);
      const Value& value = program.values()[static_cast<size_t>(v)];
      const Plan::Slot& s = plan.slots[static_cast<size_t>(slot)];
      CHECK((value.space == Space::kTokens ? s.token_row_bytes : s.output_row_bytes) >= value.row_bytes());
      live.push_back(v);
    }
    most_live = std::max(most_live, live.size());
  }
  CHECK(plan.slots.size() <= most_live);
  for (size_t i = 0; i < all.size(); ++i) {  // nobody reads what a lane that came late has not made
    if (!plan.replicated[i]) continue;
    const size_t shared = static_cast<size_t>(
        std::find(plan.replicated.begin() + static_cast<std::ptrdiff_t>(i), plan.replicated.end(), false) -
        plan.replicated.begin());
    for (const int v : all[i].outputs) CHECK(last_read[static_cast<size_t>(v)] <= shared);
  }
}

// Sums of random earlier values, some of which nobody reads.
Program random_program(unsigned seed) {
  std::mt19937 rng(seed);
  Trace t(kContext);
  std::vector<int> made{t.apply(OpKind::kEmbedding, {}, {zero_weight(t, kVocab, kWidth, "f32")}, kWidth)};
  const auto any = [&] { return made[made.size() - 1 - rng() % std::min<size_t>(made.size(), 6)]; };
  for (int i = 0; i < 40; ++i) made.push_back(t.apply(OpKind::kAdd, {any(), any()}, {}, kWidth));
  const int rows = t.value(kWidth, {}, Space::kOutputs);
  t.instruction({OpKind::kSelect, {any()}, {rows}, {}, {}});
  const int result = t.apply(OpKind::kAdd, {rows, rows}, {}, kWidth);
  t.apply(OpKind::kAdd, {rows, result}, {}, kWidth);  // the result is read too
  return Program(t.take(result));
}

TEST(values_that_live_together_share_no_buffer) {
  check_plan(Program(one_layer_spec()));
  check_plan(Program(one_layer_fused_spec()));
  for (const bool fused : {false, true}) check_plan(*check::tiny_program(64, fused));
  for (unsigned seed = 0; seed < 50; ++seed) check_plan(random_program(seed));
}

TEST(slots_hold_the_larger_of_tokens_and_outputs_in_whole_lines) {
  const Plan::Slot slot{.token_row_bytes = 100, .output_row_bytes = 1000};
  CHECK_EQ(slot.bytes(1, 0), 128);
  CHECK_EQ(slot.bytes(32, 3), 3200);
  CHECK_EQ(slot.bytes(3, 3), 3008);
  CHECK_EQ(slot.bytes(0, 0), 0);
}

TEST(a_layer_is_fused_to_twelve_instructions) {
  const std::vector<std::string> expected{
      "embedding", "rms_norm_quantize", "matmul", "rope_kv_write", "attention", "matmul", "gate_up",
      "matmul",    "layer_norm",        "gelu",   "select",        "matmul"};
  ProgramSpec fused = one_layer_fused_spec();
  CHECK(op_names(fused) == expected);
  const Instruction& qkv = fused.instructions[2];
  CHECK_EQ(qkv.outputs.size(), 3);
  CHECK_EQ(qkv.parameters.size(), 6);
  CHECK(qkv.parameters[1] >= 0 && qkv.parameters[3] == -1);  // q has a bias
  CHECK_EQ(fused.instructions[5].inputs.size(), 2);          // a residual
  CHECK_EQ(find(fused, OpKind::kRopeKvWrite).attributes.n_heads, 2);
  CHECK(op_names(fuse(Program(fused))) == expected);  // nothing is left to fuse
}

TEST(a_norm_is_fused_with_rounding_to_bf16) {
  Trace t(kContext);
  const int x = t.apply(OpKind::kEmbedding, {}, {zero_weight(t, kVocab, kWidth, "bf16")}, kWidth);
  const int rows = t.value(kWidth, {}, Space::kOutputs);
  t.instruction({OpKind::kSelect, {x}, {rows}, {}, {}});
  const int norm = t.floats("norm", std::vector<float>(kWidth));
  const int h = t.apply(OpKind::kRmsNorm, {rows}, {norm}, kWidth, {.eps = 1e-5f});
  const ProgramSpec fused = fuse(Program(t.take(t.matmul(h, zero_weight(t, kVocab, kWidth, "bf16")))));
  CHECK(op_names(fused) == (std::vector<std::string>{"embedding", "select", "rms_norm_quantize", "matmul"}));
  const int made = fused.instructions[2].outputs[0];
  CHECK_EQ(fused.values[static_cast<size_t>(made)].format.name(), std::string("bf16"));
  check_plan(Program(fused));
}

// What a matmul and an instruction behind it, whose result is added to the rows that they come from, are fused to.
ProgramSpec fused_with(OpKind kind, const Attributes& attributes, bool twice = false) {
  Trace t(kContext);
  const int tokens = t.apply(OpKind::kEmbedding, {}, {zero_weight(t, kVocab, kWidth, "f32")}, kWidth);
  const auto rows = [&] { return t.value(kWidth, {}, Space::kOutputs); };
  const int x = rows(), h = rows(), y = rows(), sum = rows();
  t.instruction({OpKind::kSelect, {tokens}, {x}, {}, {}});
  t.instruction({OpKind::kMatmul, {x}, {h}, {zero_weight(t, kWidth, kWidth, "f32"), -1}, {}});
  t.instruction({kind, {h}, {y}, {}, attributes});
  t.instruction({OpKind::kAdd, {twice ? h : x, y}, {sum}, {}, {}});
  return fuse(Program(t.take(sum)));
}

TEST(an_activation_is_done_by_the_matmul_before_it) {
  const auto finish = [](OpKind kind, const Attributes& attributes) {
    const ProgramSpec fused = fused_with(kind, attributes);
    CHECK(op_names(fused) == (std::vector<std::string>{"embedding", "select", "matmul"}));
    CHECK_EQ(fused.instructions[2].inputs.size(), 2);  // a residual
    return fused.instructions[2].attributes.finish;
  };
  CHECK(finish(OpKind::kGelu, {}) == Finish::kGelu);
  CHECK(finish(OpKind::kGelu, {.tanh = true}) == Finish::kGeluTanh);
  CHECK(finish(OpKind::kActivation, {.function = Function::kRelu}) == Finish::kRelu);
  CHECK(finish(OpKind::kActivation, {.function = Function::kTanh}) == Finish::kTanh);
  CHECK(finish(OpKind::kActivation, {.function = Function::kSilu}) == Finish::kSilu);
  const std::vector<std::string> apart{"embedding", "select", "matmul", "gelu", "add"};
  CHECK(op_names(fused_with(OpKind::kGelu, {}, true)) == apart);
}

// `apply` makes one instruction of `spec` unfit for the rule that gives `kind`.
void check_not_fused(OpKind kind, const char* what, const Break& apply) {
  ProgramSpec spec = one_layer_spec();
  apply(spec);
  ProgramSpec fused = fuse(Program(spec));
  Program{fused};  // valid
  const bool found = std::any_of(fused.instructions.begin(), fused.instructions.end(), [&](const Instruction& at) {
    return at.op == kind && (kind != OpKind::kMatmul || at.inputs.size() == 2);
  });
  if (found)
    check::report_failure(__FILE__, __LINE__, std::string("fused to ") + op(kind).name + " in spite of " + what);
}

// Adds a second reader of a value, at the end.
void read_again(ProgramSpec& spec, int value) {
  spec.values.push_back(spec.values[static_cast<size_t>(value)]);
  spec.instructions.push_back({OpKind::kAdd, {value, value}, {static_cast<int>(spec.values.size()) - 1}, {}, {}});
}

TEST(values_that_others_read_are_not_fused_away) {
  check_not_fused(OpKind::kRmsNormQuantize, "a second reader of the norm",
                  [](ProgramSpec& s) { read_again(s, find(s, OpKind::kRmsNorm).outputs[0]); });
  for (const size_t i : {0, 1}) {
    check_not_fused(OpKind::kGateUp, "a second reader of gate or up",
                    [=](ProgramSpec& s) { read_again(s, find(s, OpKind::kSiluMul).inputs[i]); });
  }
  check_not_fused(OpKind::kRopeKvWrite, "a second reader of the rotated k",
                  [](ProgramSpec& s) { read_again(s, find(s, OpKind::kKvWrite).inputs[0]); });
  check_not_fused(OpKind::kRopeKvWrite, "a second reader of k", [](ProgramSpec& s) {
    const Instruction& write = find(s, OpKind::kKvWrite);
    read_again(s, (&write - 1)->inputs[0]);
  });
  check_not_fused(OpKind::kRopeKvWrite, "k as values too", [](ProgramSpec& s) {
    Instruction& write = find(s, OpKind::kKvWrite);
    write.inputs[1] = (&write - 1)->inputs[0];
  });
  check_not_fused(OpKind::kMatmul, "second readers of what is added", [](ProgramSpec& s) {
    std::vector<int> added;
    for (const Instruction& at : s.instructions) {
      if (at.op == OpKind::kAdd) added.push_back(at.inputs[1]);
    }
    for (const int v : added) read_again(s, v);
  });
}

TEST(instructions_that_do_not_match_are_not_fused) {
  check_not_fused(OpKind::kGateUp, "gate and up exchanged", [](ProgramSpec& s) {
    Instruction& mul = find(s, OpKind::kSiluMul);
    std::swap(mul.inputs[0], mul.inputs[1]);
  });
  check_not_fused(OpKind::kGateUp, "a bias", [](ProgramSpec& s) {
    static const std::vector<float> zeros(48);
    s.parameters.push_back({.name = "bias", .matrix = {}, .floats = zeros.data(), .rows = 1, .cols = 48});
    (&find(s, OpKind::kSiluMul) - 1)->parameters[1] = static_cast<int>(s.parameters.size()) - 1;
  });
  check_not_fused(OpKind::kRopeKvWrite, "tables of its own for k", [](ProgramSpec& s) {
    Instruction& write = find(s, OpKind::kKvWrite);
    std::swap((&write - 1)->parameters[0], (&write - 1)->parameters[1]);
  });
}

// 2 heads of 16 for q, and k as 1 head of 16 rotated; but stored as 2 heads of 8.
TEST(keys_stored_in_other_heads_than_rotated_are_not_fused) {
  check_not_fused(OpKind::kRopeKvWrite, "other heads in the cache", [](ProgramSpec& s) {
    for (const OpKind kind : {OpKind::kKvWrite, OpKind::kAttention}) {
      Attributes& a = find(s, kind).attributes;
      a = {.scale = a.scale, .n_heads = 4, .n_kv_heads = 2, .head_dim = 8};
    }
  });
}

}  // namespace
}  // namespace jiffy
