// What a program refuses, which buffers its values share, and what it fuses.
#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "program/program.h"
#include "support.h"

namespace jiffy {
namespace {

using check::Trace;

constexpr int64_t kWidth = 32, kContext = 8, kVocab = 20;
const Attributes kQueryHeads{.scale = 0.25f, .n_heads = 2, .n_kv_heads = 1, .head_dim = 16};
const Attributes kKeyHeads{.n_heads = 1, .head_dim = 16};

int weight(Trace& t, int64_t rows, int64_t cols, const char* format) {
  return t.matrix(Weight::create("w", rows, cols, parse_format(format, "test")));
}

// y = x + attention(norm(x)), z = y + ffn(y): one layer with every op that a trace can hold.
ProgramSpec one_layer() {
  Trace t(kContext);
  const int cosines = t.floats("cosines", std::vector<float>(kContext * 8), kContext);
  const int sines = t.floats("sines", std::vector<float>(kContext * 8), kContext);
  const int norm = t.floats("norm", std::vector<float>(kWidth));
  const int bias = t.floats("bias", std::vector<float>(kWidth));
  const int x = t.apply(OpKind::kEmbedding, {}, {weight(t, kVocab, kWidth, "f32")}, kWidth);
  const int h = t.apply(OpKind::kRmsNorm, {x}, {norm}, kWidth, {.eps = 1e-5f});
  const int q = t.matmul(h, weight(t, kWidth, kWidth, "i8g32"), bias);
  const int k = t.matmul(h, weight(t, 16, kWidth, "i8g32"));
  const int v = t.matmul(h, weight(t, 16, kWidth, "i4"));
  const int rotated_q = t.apply(OpKind::kRope, {q}, {cosines, sines}, kWidth, kQueryHeads);
  const int rotated_k = t.apply(OpKind::kRope, {k}, {cosines, sines}, 16, kKeyHeads);
  t.instruction({OpKind::kKvWrite, {rotated_k, v}, {}, {}, kQueryHeads});
  const int attended = t.apply(OpKind::kAttention, {rotated_q}, {}, kWidth, kQueryHeads);
  const int out = t.matmul(attended, weight(t, kWidth, kWidth, "f32"));
  const int y = t.apply(OpKind::kAdd, {x, out}, {}, kWidth);
  const int gate = t.matmul(y, weight(t, 48, kWidth, "f32"));
  const int up = t.matmul(y, weight(t, 48, kWidth, "f32"));
  const int product = t.apply(OpKind::kSiluMul, {gate, up}, {}, 48);
  const int down = t.matmul(product, weight(t, kWidth, 48, "f32"));
  const int z = t.apply(OpKind::kAdd, {y, down}, {}, kWidth);
  const int rows = t.value(kWidth, 0, Space::kOutputs);
  t.instruction({OpKind::kSelect, {z}, {rows}, {}, {}});
  return t.take(t.matmul(rows, weight(t, kVocab, kWidth, "f32")));
}

ProgramSpec one_layer_fused() { return fuse(Program(one_layer())); }

std::vector<std::string> op_names(const ProgramSpec& spec) {
  std::vector<std::string> names;
  for (const Instruction& at : spec.instructions) names.emplace_back(op(at.op).name);
  return names;
}

Instruction& find(ProgramSpec& spec, OpKind kind) {
  return *std::find_if(spec.instructions.begin(), spec.instructions.end(), [&](auto& at) { return at.op == kind; });
}
Parameter& parameter(ProgramSpec& spec, OpKind kind, size_t i) {
  return spec.parameters[static_cast<size_t>(find(spec, kind).parameters[i])];
}

std::string place(const ProgramSpec& spec, size_t i) {
  return "program instruction " + std::to_string(i) + " (" + op(spec.instructions[i].op).name + ")";
}

// `place`: how the error's place begins.
void check_refused(const ProgramSpec& spec, const std::string& place, const std::string& what) {
  try {
    Program{spec};
    check::report_failure(__FILE__, __LINE__, what + ": accepted");
  } catch (const Error& error) {
    if (error.kind == ErrorKind::kFormat && error.where.starts_with(place)) return;
    check::report_failure(__FILE__, __LINE__, what + ": threw \"" + error.what() + "\", expected one at " + place);
  }
}

using Break = std::function<void(ProgramSpec&)>;

// The error must be at the first instruction of this kind; `fused`: in the fused program.
void check_break(OpKind kind, const std::string& what, const Break& apply, bool fused = false) {
  ProgramSpec spec = fused ? one_layer_fused() : one_layer();
  const size_t index = static_cast<size_t>(&find(spec, kind) - spec.instructions.data());
  apply(spec);
  check_refused(spec, place(spec, index), std::string(op(kind).name) + ", " + what);
}

// Breaks every instruction of both programs, each in the same way. `apply` returns false where that breaks nothing.
void break_each(const char* what, const std::function<bool(Instruction&)>& apply) {
  for (const ProgramSpec& whole : {one_layer(), one_layer_fused()}) {
    for (size_t i = 0; i < whole.instructions.size(); ++i) {
      ProgramSpec spec = whole;
      if (apply(spec.instructions[i])) check_refused(spec, place(spec, i), place(spec, i) + ", " + what);
    }
  }
}

TEST(programs_in_order_are_accepted) {
  const Program program(one_layer());
  CHECK_EQ(program.vocab_size(), kVocab);
  CHECK_EQ(program.result_width(), kVocab);
  CHECK_EQ(program.context_length(), kContext);
  const KvLayout kv = program.kv_shape();
  CHECK(kv.n_layers == 1 && kv.n_kv_heads == 1 && kv.head_dim == 16 && kv.data == nullptr);
  CHECK_EQ(Program(one_layer_fused()).instructions().size(), 10);
}

TEST(indices_out_of_range_are_refused) {
  for (const int bad : {-1, 1000, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
    break_each("input", [=](Instruction& at) {
      for (int& v : at.inputs) v = bad;
      return !at.inputs.empty();
    });
    break_each("output", [=](Instruction& at) {
      for (int& v : at.outputs) v = bad;
      return !at.outputs.empty();
    });
    break_each("parameter", [=](Instruction& at) {
      for (int& p : at.parameters) p = bad;
      return !at.parameters.empty();
    });
  }
}

TEST(wrong_numbers_of_operands_are_refused) {
  const auto grow = [](std::vector<int>& list) {
    list.insert(list.end(), 2, 0);
    return true;
  };
  const auto shrink = [](std::vector<int>& list) {
    const bool some = !list.empty();
    if (some) list.pop_back();
    return some;
  };
  break_each("inputs too many", [&](Instruction& at) { return grow(at.inputs); });
  break_each("outputs too many", [&](Instruction& at) { return grow(at.outputs); });
  break_each("parameters too many", [&](Instruction& at) { return grow(at.parameters); });
  break_each("inputs too few", [&](Instruction& at) {
    const bool has_residual = at.op == OpKind::kMatmul && at.inputs.size() == 2;  // without it, a matmul all the same
    return !has_residual && shrink(at.inputs);
  });
  break_each("outputs too few", [&](Instruction& at) { return shrink(at.outputs); });
  break_each("parameters too few", [&](Instruction& at) { return shrink(at.parameters); });
}

// Whatever type of value an instruction makes, changing that alone disturbs the instruction or one of its readers.
TEST(values_of_another_type_are_refused) {
  const std::function<void(Value&)> changes[] = {
      [](Value& v) { ++v.width; },
      [](Value& v) { --v.width; },
      [](Value& v) { v.width = std::numeric_limits<int32_t>::max(); },
      [](Value& v) { v.group = v.group == 0 ? 32 : 0; },
      [](Value& v) { v.group = 128; },
      [](Value& v) { v.group = 5; },
      [](Value& v) { v.space = v.space == Space::kTokens ? Space::kOutputs : Space::kTokens; },
  };
  for (const ProgramSpec& whole : {one_layer(), one_layer_fused()}) {
    for (const Instruction& at : whole.instructions) {
      for (const int v : at.outputs) {
        for (const auto& change : changes) {
          ProgramSpec spec = whole;
          change(spec.values[static_cast<size_t>(v)]);
          check_refused(spec, "program", "value " + std::to_string(v));
        }
      }
    }
  }
}

TEST(values_of_impossible_sizes_are_refused) {
  for (const int64_t width : {int64_t{0}, int64_t{-1}, INT64_MIN, INT64_MAX, int64_t{1} << 31}) {
    ProgramSpec spec = one_layer();
    spec.values[3].width = width;
    check_refused(spec, width < 1 ? "program value" : "program instruction 3", "width " + std::to_string(width));
  }
  ProgramSpec spec = one_layer();
  spec.values[3].group = -1;
  check_refused(spec, "program value", "group -1");
}

TEST(parameters_of_another_shape_are_refused) {
  const auto wider = [](Parameter& p) { ++(p.matrix.data != nullptr ? p.matrix.cols : p.cols); };
  const auto taller = [](Parameter& p) { ++(p.matrix.data != nullptr ? p.matrix.rows : p.rows); };
  const auto exchanged = [](Parameter& p) {  // floats for a matrix, a matrix for floats
    static const float one = 1.0f;
    static const uint8_t data[64] = {};
    p.floats = p.floats == nullptr ? &one : nullptr;
    p.matrix.data = p.floats == nullptr ? data : nullptr;
  };
  const auto check_parameter = [&](OpKind kind, size_t i, bool fused, bool rows_matter) {
    check_break(kind, "cols", [&](ProgramSpec& s) { wider(parameter(s, kind, i)); }, fused);
    check_break(kind, "kind", [&](ProgramSpec& s) { exchanged(parameter(s, kind, i)); }, fused);
    check_break(kind, "none", [&](ProgramSpec& s) { find(s, kind).parameters[i] = -1; }, fused);
    if (rows_matter) check_break(kind, "rows", [&](ProgramSpec& s) { taller(parameter(s, kind, i)); }, fused);
  };
  check_parameter(OpKind::kEmbedding, 0, false, false);
  check_parameter(OpKind::kRmsNorm, 0, false, true);
  check_parameter(OpKind::kRmsNormQuantize, 0, true, true);
  check_parameter(OpKind::kMatmul, 0, false, true);
  check_parameter(OpKind::kMatmul, 2, true, true);
  check_parameter(OpKind::kGateUp, 0, true, true);
  check_parameter(OpKind::kGateUp, 1, true, true);
  for (const size_t table : {0, 1}) {
    check_parameter(OpKind::kRope, table, false, table == 1);
    check_parameter(OpKind::kRopeKvWrite, table, true, table == 1);
  }
  check_break(OpKind::kMatmul, "bias", [](ProgramSpec& s) { ++parameter(s, OpKind::kMatmul, 1).cols; });
  check_break(
      OpKind::kGateUp, "formats",
      [](ProgramSpec& s) { parameter(s, OpKind::kGateUp, 1).matrix.format.offset = Offset::kMin; }, true);
}

TEST(attributes_out_of_range_are_refused) {
  const auto check_attribute = [](OpKind kind, int64_t Attributes::* field, std::initializer_list<int64_t> bad) {
    const bool fused = kind == OpKind::kRopeKvWrite;
    for (const int64_t value : bad) {
      const auto set = [&](ProgramSpec& s) { find(s, kind).attributes.*field = value; };
      check_break(kind, "attribute " + std::to_string(value), set, fused);
    }
  };
  for (const OpKind kind : {OpKind::kRope, OpKind::kKvWrite, OpKind::kAttention, OpKind::kRopeKvWrite}) {
    // A kv_write has keys and values only.
    if (kind != OpKind::kKvWrite) check_attribute(kind, &Attributes::n_heads, {-1, 0, 3, INT64_MAX, int64_t{1} << 60});
    check_attribute(kind, &Attributes::head_dim, {-16, 0, 8, 15, 17, 1024, INT64_MAX, int64_t{1} << 60});
    if (kind == OpKind::kRope) continue;
    check_attribute(kind, &Attributes::n_kv_heads, {-1, 0, 2, 3, INT64_MAX, int64_t{1} << 60});
    check_attribute(kind, &Attributes::layer, {-1, INT64_MIN, INT64_MAX, int64_t{1} << 40});
  }
  for (const float eps : {-1.0f, std::numeric_limits<float>::quiet_NaN()}) {
    check_break(OpKind::kRmsNorm, "eps", [=](ProgramSpec& s) { find(s, OpKind::kRmsNorm).attributes.eps = eps; });
    check_break(
        OpKind::kRmsNormQuantize, "eps",
        [=](ProgramSpec& s) { find(s, OpKind::kRmsNormQuantize).attributes.eps = eps; }, true);
  }
}

// Ops that read the batch's tokens or the KV cache write a row for each token: a value of outputs would be too small.
TEST(ops_of_tokens_refuse_values_of_outputs) {
  Trace t(kContext);
  const int rows = t.value(kWidth, 0, Space::kOutputs);
  t.instruction({OpKind::kEmbedding, {}, {rows}, {weight(t, kVocab, kWidth, "f32")}, {}});
  check_refused(t.take(rows), "program instruction 0 (embedding)", "an embedding of outputs");
  for (const OpKind kind : {OpKind::kRope, OpKind::kAttention, OpKind::kRopeKvWrite}) {
    ProgramSpec spec = kind == OpKind::kRopeKvWrite ? one_layer_fused() : one_layer();
    const Instruction at = find(spec, kind);
    for (const int v : {at.inputs[0], at.outputs[0]}) spec.values[static_cast<size_t>(v)].space = Space::kOutputs;
    spec.instructions = {at};  // without the others, which would object to the change
    check_refused(spec, place(spec, 0), "outputs");
  }
}

TEST(values_are_made_once_and_before_they_are_read) {
  for (const ProgramSpec& whole : {one_layer(), one_layer_fused()}) {
    for (size_t i = 1; i < whole.instructions.size(); ++i) {
      ProgramSpec spec = whole;
      spec.instructions.erase(spec.instructions.begin() + static_cast<std::ptrdiff_t>(i) - 1);
      if (whole.instructions[i - 1].outputs.empty()) continue;
      check_refused(spec, "program instruction", "without instruction " + std::to_string(i - 1));
      spec = whole;
      spec.instructions.insert(spec.instructions.begin() + static_cast<std::ptrdiff_t>(i), spec.instructions[i - 1]);
      check_refused(spec, place(spec, i), "twice instruction " + std::to_string(i - 1));
    }
  }
  check_break(OpKind::kAdd, "its own output", [](ProgramSpec& s) {
    Instruction& add = find(s, OpKind::kAdd);
    add.inputs[0] = add.outputs[0];
  });
}

TEST(layers_with_other_kv_heads_are_refused) {
  const auto with_second_write = [](Attributes attributes) {
    ProgramSpec spec = one_layer();
    Instruction write = find(spec, OpKind::kKvWrite);
    write.attributes = attributes;
    spec.instructions.insert(spec.instructions.end() - 2, write);
    return spec;
  };
  Attributes attributes = kQueryHeads;
  attributes.layer = 1;
  CHECK_EQ(Program(with_second_write(attributes)).kv_shape().n_layers, 2);
  attributes.n_kv_heads = 2;
  attributes.head_dim = 8;
  const ProgramSpec spec = with_second_write(attributes);
  check_refused(spec, place(spec, spec.instructions.size() - 3), "two KV heads of 8 after one of 16");
}

// Its keys and values would be what another request left in the blocks.
TEST(attention_to_a_layer_that_is_not_written_before_is_refused) {
  check_break(OpKind::kAttention, "layer", [](ProgramSpec& s) { find(s, OpKind::kAttention).attributes.layer = 1; });
  ProgramSpec late = one_layer();
  const auto write = late.instructions.begin() + (&find(late, OpKind::kKvWrite) - late.instructions.data());
  std::swap(write[0], write[1]);
  check_refused(late, "program instruction 8 (attention)", "a kv_write behind its attention");
}

TEST(rope_tables_cover_the_context) {
  for (const bool fused : {false, true}) {
    const OpKind kind = fused ? OpKind::kRopeKvWrite : OpKind::kRope;
    check_break(kind, "a long context", [](ProgramSpec& s) { s.context_length = kContext + 1; }, fused);
  }
  ProgramSpec spec = one_layer();
  spec.context_length = kContext - 1;
  CHECK_EQ(Program(spec).context_length(), kContext - 1);
}

TEST(programs_without_result_embedding_or_context_are_refused) {
  const auto check_spec = [](const char* place, const Break& apply) {
    ProgramSpec spec = one_layer();
    apply(spec);
    check_refused(spec, place, place);
  };
  for (const int bad : {-1, 1000, std::numeric_limits<int>::max()}) {
    check_spec("program result", [=](ProgramSpec& s) { s.result = bad; });
  }
  check_spec("program result", [](ProgramSpec& s) { s.result = 0; });  // rows of tokens
  check_spec("program result", [](ProgramSpec& s) {                    // quantised rows
    s.values.push_back({Space::kOutputs, kVocab, 32});
    const int q = static_cast<int>(s.values.size()) - 1;
    s.instructions.push_back({OpKind::kQuantize, {s.result}, {q}, {}, {}});
    s.result = q;
  });
  check_spec("program result", [](ProgramSpec& s) { s.instructions.clear(); });
  for (const int64_t bad : {int64_t{0}, int64_t{-1}, INT64_MIN}) {
    check_spec("program context_length", [=](ProgramSpec& s) { s.context_length = bad; });
  }
  check_refused({}, "program result", "an empty program");
}

// Plays the plan: nothing is written into a slot that holds a value which is still to be read, this instruction
// included.
void check_plan(const Program& program) {
  const Plan plan = plan_buffers(program);
  const std::vector<Instruction>& all = program.instructions();
  std::vector<size_t> last_read(program.values().size(), 0);
  for (size_t i = 0; i < all.size(); ++i) {
    for (const int v : all[i].inputs) last_read[static_cast<size_t>(v)] = i;
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
}

// Sums of random earlier values, some of which nobody reads.
Program random_program(unsigned seed) {
  std::mt19937 rng(seed);
  Trace t(kContext);
  std::vector<int> made{t.apply(OpKind::kEmbedding, {}, {weight(t, kVocab, kWidth, "f32")}, kWidth)};
  const auto any = [&] { return made[made.size() - 1 - rng() % std::min<size_t>(made.size(), 6)]; };
  for (int i = 0; i < 40; ++i) made.push_back(t.apply(OpKind::kAdd, {any(), any()}, {}, kWidth));
  const int rows = t.value(kWidth, 0, Space::kOutputs);
  t.instruction({OpKind::kSelect, {any()}, {rows}, {}, {}});
  const int result = t.apply(OpKind::kAdd, {rows, rows}, {}, kWidth);
  t.apply(OpKind::kAdd, {rows, result}, {}, kWidth);  // the result is read too
  return Program(t.take(result));
}

TEST(values_that_live_together_share_no_buffer) {
  check_plan(Program(one_layer()));
  check_plan(Program(one_layer_fused()));
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

TEST(a_layer_is_fused_to_ten_instructions) {
  const std::vector<std::string> expected{"embedding", "rms_norm_quantize", "matmul", "rope_kv_write", "attention",
                                          "matmul",    "gate_up",           "matmul", "select",        "matmul"};
  ProgramSpec fused = one_layer_fused();
  CHECK(op_names(fused) == expected);
  const Instruction& qkv = fused.instructions[2];
  CHECK_EQ(qkv.outputs.size(), 3);
  CHECK_EQ(qkv.parameters.size(), 6);
  CHECK(qkv.parameters[1] >= 0 && qkv.parameters[3] == -1);  // q has a bias
  CHECK_EQ(fused.instructions[5].inputs.size(), 2);          // a residual
  CHECK_EQ(find(fused, OpKind::kRopeKvWrite).attributes.n_heads, 2);
  CHECK(op_names(fuse(Program(fused))) == expected);  // nothing is left to fuse
}

// `apply` makes one instruction of `spec` unfit for the rule that gives `kind`.
void check_not_fused(OpKind kind, const char* what, const Break& apply) {
  ProgramSpec spec = one_layer();
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
