// What a program refuses, and where it says so.
#include <algorithm>
#include <functional>
#include <initializer_list>
#include <limits>
#include <string>

#include "base/error.h"
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
  ProgramSpec spec = fused ? one_layer_fused_spec() : one_layer_spec();
  const size_t index = static_cast<size_t>(&find(spec, kind) - spec.instructions.data());
  apply(spec);
  check_refused(spec, place(spec, index), std::string(op(kind).name) + ", " + what);
}

// Breaks every instruction of both programs, each in the same way. `apply` returns false where that breaks nothing.
void break_each(const char* what, const std::function<bool(Instruction&)>& apply) {
  for (const ProgramSpec& whole : {one_layer_spec(), one_layer_fused_spec()}) {
    for (size_t i = 0; i < whole.instructions.size(); ++i) {
      ProgramSpec spec = whole;
      if (apply(spec.instructions[i])) check_refused(spec, place(spec, i), place(spec, i) + ", " + what);
    }
  }
}

TEST(programs_in_order_are_accepted) {
  const Program program(one_layer_spec());
  CHECK_EQ(program.vocab_size(), kVocab);
  CHECK_EQ(program.result_width(), kVocab);
  CHECK_EQ(program.context_length(), kContext);
  const KvLayout kv = program.kv_shape();
  CHECK(kv.n_layers == 1 && kv.n_kv_heads == 1 && kv.head_dim == 16 && kv.data == nullptr);
  CHECK_EQ(Program(one_layer_fused_spec()).instructions().size(), 12);
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
      [](Value& v) { v.format = v.format.quantized() ? RowFormat{} : RowFormat{8, 32}; },
      [](Value& v) { v.format = {8, 128}; },
      [](Value& v) { v.format = {8, 5}; },
      [](Value& v) { v.format = {16, 2}; },
      [](Value& v) { v.space = v.space == Space::kTokens ? Space::kOutputs : Space::kTokens; },
  };
  for (const ProgramSpec& whole : {one_layer_spec(), one_layer_fused_spec()}) {
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
    ProgramSpec spec = one_layer_spec();
    spec.values[3].width = width;
    check_refused(spec, width < 1 ? "program value" : "program instruction 3", "width " + std::to_string(width));
  }
  for (const RowFormat bad :
       {RowFormat{8, -1}, {8, 0}, {8, 64, true}, {16, 1}, {16, 2, true}, {16, 32}, {32, 2}, {32, 0}, {4, 32}, {0, 0}}) {
    ProgramSpec spec = one_layer_spec();
    spec.values[3].format = bad;
    check_refused(spec, "program value", std::to_string(bad.bits) + " bits in groups of " + std::to_string(bad.group));
  }
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
    if (kind != OpKind::kEmbedding) {  // takes both
      check_break(kind, "kind", [&](ProgramSpec& s) { exchanged(parameter(s, kind, i)); }, fused);
    }
    check_break(kind, "none", [&](ProgramSpec& s) { find(s, kind).parameters[i] = -1; }, fused);
    if (rows_matter) check_break(kind, "rows", [&](ProgramSpec& s) { taller(parameter(s, kind, i)); }, fused);
  };
  check_parameter(OpKind::kEmbedding, 0, false, false);
  check_parameter(OpKind::kRmsNorm, 0, false, true);
  check_parameter(OpKind::kLayerNorm, 0, false, true);
  check_parameter(OpKind::kRmsNormQuantize, 0, true, true);
  check_parameter(OpKind::kMatmul, 0, false, true);
  check_parameter(OpKind::kMatmul, 2, true, true);
  check_parameter(OpKind::kGateUp, 0, true, true);
  check_parameter(OpKind::kGateUp, 1, true, true);
  for (const size_t table : {0, 1}) {
    check_parameter(OpKind::kRope, table, false, table == 1);
    check_parameter(OpKind::kRopeKvWrite, table, true, table == 1);
  }
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 3}, {2, 2}, {2, 0}}) {
    check_break(OpKind::kAttention, "bias", [&](ProgramSpec& s) {
      static const float bias[6] = {};
      s.parameters.push_back({.name = "bias", .matrix = {}, .floats = bias, .rows = rows, .cols = cols});
      find(s, OpKind::kAttention).parameters = {static_cast<int>(s.parameters.size()) - 1};
    });
  }
  check_break(OpKind::kAttention, "none", [](ProgramSpec& s) { find(s, OpKind::kAttention).parameters = {-1}; });
  check_break(OpKind::kEmbedding, "indices",
              [](ProgramSpec& s) { find(s, OpKind::kEmbedding).attributes.indices = static_cast<Indices>(3); });
  check_break(OpKind::kLayerNorm, "bias", [](ProgramSpec& s) { ++parameter(s, OpKind::kLayerNorm, 1).cols; });
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
    for (const OpKind kind : {OpKind::kRmsNorm, OpKind::kLayerNorm})
      check_break(kind, "eps", [=](ProgramSpec& s) { find(s, kind).attributes.eps = eps; });
    check_break(
        OpKind::kRmsNormQuantize, "eps",
        [=](ProgramSpec& s) { find(s, OpKind::kRmsNormQuantize).attributes.eps = eps; }, true);
  }
}

// A head with these weights, behind a quantize to these rows unless they are f32.
ProgramSpec head_spec(const char* weights, const RowFormat& rows) {
  Trace t(kContext);
  const int x = t.apply(OpKind::kEmbedding, {}, {zero_weight(t, kVocab, kWidth, "bf16")}, kWidth);
  int selected = t.value(kWidth, {}, Space::kOutputs);
  t.instruction({OpKind::kSelect, {x}, {selected}, {}, {}});
  if (rows.quantized()) {
    const int q = t.value(kWidth, rows, Space::kOutputs);
    t.instruction({OpKind::kQuantize, {selected}, {q}, {}, {}});
    selected = q;
  }
  return t.take(t.apply(OpKind::kMatmul, {selected}, {zero_weight(t, kVocab, kWidth, weights), -1}, kVocab));
}

TEST(weights_want_rows_of_their_own_kind) {
  const std::pair<const char*, RowFormat> kinds[] = {{"f32", {}},           {"bf16", {16, 2}},   {"i8g32", {8, 32}},
                                                     {"i4", {8, 32, true}}, {"i4g64a", {8, 64}}, {"i8", {8, 128}}};
  for (const auto& [weights, wanted] : kinds) {
    for (const auto& [name, rows] : kinds) {
      const ProgramSpec spec = head_spec(weights, rows);
      if (rows == wanted) {
        CHECK_EQ(Program(spec).vocab_size(), kVocab);
      } else {
        check_refused(spec, place(spec, spec.instructions.size() - 1), std::string(weights) + " with " + rows.name());
      }
    }
  }
}

// Ops that read the batch's tokens or the KV cache write a row for each token: a value of outputs would be too small.
TEST(ops_of_tokens_refuse_values_of_outputs) {
  Trace t(kContext);
  const int rows = t.value(kWidth, {}, Space::kOutputs);
  t.instruction({OpKind::kEmbedding, {}, {rows}, {zero_weight(t, kVocab, kWidth, "f32")}, {}});
  check_refused(t.take(rows), "program instruction 0 (embedding)", "an embedding of outputs");
  for (const OpKind kind : {OpKind::kRope, OpKind::kAttention, OpKind::kRopeKvWrite}) {
    ProgramSpec spec = kind == OpKind::kRopeKvWrite ? one_layer_fused_spec() : one_layer_spec();
    const Instruction at = find(spec, kind);
    for (const int v : {at.inputs[0], at.outputs[0]}) spec.values[static_cast<size_t>(v)].space = Space::kOutputs;
    spec.instructions = {at};  // without the others, which would object to the change
    check_refused(spec, place(spec, 0), "outputs");
  }
}

TEST(values_are_made_once_and_before_they_are_read) {
  for (const ProgramSpec& whole : {one_layer_spec(), one_layer_fused_spec()}) {
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
    ProgramSpec spec = one_layer_spec();
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
  ProgramSpec late = one_layer_spec();
  const auto write = late.instructions.begin() + (&find(late, OpKind::kKvWrite) - late.instructions.data());
  std::swap(write[0], write[1]);
  check_refused(late, "program instruction 8 (attention)", "a kv_write behind its attention");
}

TEST(layers_of_a_source_and_of_states_come_in_order) {
  Trace t(kContext);
  int x = t.apply(OpKind::kEmbedding, {}, {zero_weight(t, kVocab, kWidth, "f32")}, kWidth);
  const auto cross = [&](int64_t layer, int64_t n_heads) {
    const int64_t head_dim = kWidth / n_heads;
    x = t.apply(OpKind::kAttention, {x}, {}, kWidth,
                {.scale = 1.0f,
                 .layer = layer,
                 .n_heads = n_heads,
                 .n_kv_heads = n_heads,
                 .head_dim = head_dim,
                 .cross = true});
  };
  for (int64_t layer = 0; layer < 2; ++layer) {
    x = t.apply(OpKind::kSsru, {x, x}, {}, kWidth, {.layer = layer});
    cross(layer, 1);
  }
  const int rows = t.value(kWidth, {}, Space::kOutputs);
  t.instruction({OpKind::kSelect, {x}, {rows}, {}, {}});
  const ProgramSpec good = t.take(rows);
  const Program program(good);
  CHECK_EQ(program.source_shape().n_layers, 2);
  CHECK_EQ(program.source_shape().head_dim, kWidth);
  CHECK_EQ(program.kv_shape().n_state_layers, 2);
  CHECK_EQ(program.kv_shape().state_dim, kWidth);
  CHECK_EQ(program.kv_shape().n_layers, 0);
  for (const size_t i : {1, 2, 3, 4}) {
    for (const int64_t layer : {-1, 2, 5}) {
      ProgramSpec spec = good;
      spec.instructions[i].attributes.layer = layer;
      check_refused(spec, place(spec, i), "layer " + std::to_string(layer));
    }
  }
  ProgramSpec spec = good;
  spec.instructions[4].attributes.n_heads = spec.instructions[4].attributes.n_kv_heads = 2;
  spec.instructions[4].attributes.head_dim = kWidth / 2;
  check_refused(spec, place(spec, 4), "other heads than the first cross-attention's");
}

TEST(rope_tables_cover_the_context) {
  for (const bool fused : {false, true}) {
    const OpKind kind = fused ? OpKind::kRopeKvWrite : OpKind::kRope;
    check_break(kind, "a long context", [](ProgramSpec& s) { s.context_length = kContext + 1; }, fused);
  }
  ProgramSpec spec = one_layer_spec();
  spec.context_length = kContext - 1;
  CHECK_EQ(Program(spec).context_length(), kContext - 1);
}

TEST(programs_without_result_embedding_or_context_are_refused) {
  const auto check_spec = [](const char* place, const Break& apply) {
    ProgramSpec spec = one_layer_spec();
    apply(spec);
    check_refused(spec, place, place);
  };
  for (const int bad : {-1, 1000, std::numeric_limits<int>::max()}) {
    check_spec("program result", [=](ProgramSpec& s) { s.result = bad; });
  }
  check_spec("program result", [](ProgramSpec& s) { s.result = 0; });  // rows of tokens
  check_spec("program result", [](ProgramSpec& s) {                    // quantised rows
    s.values.push_back({Space::kOutputs, kVocab, {8, 32}});
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

}  // namespace
}  // namespace jiffy
