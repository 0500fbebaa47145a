#include "program/program.h"

#include <algorithm>

namespace jiffy {
namespace {

std::string place(size_t index, const Instruction& at) {
  return "program instruction " + std::to_string(index) + " (" + op(at.op).name + ")";
}

[[noreturn]] void broken(const std::string& where, const std::string& expected, const std::string& found) {
  fail(ErrorKind::kFormat, where, expected, found);
}

bool touches_kv(OpKind kind) {
  return kind == OpKind::kKvWrite || kind == OpKind::kRopeKvWrite || kind == OpKind::kAttention;
}

bool rotates(OpKind kind) { return kind == OpKind::kRope || kind == OpKind::kRopeKvWrite; }

bool counts_positions(const Instruction& at) {
  return rotates(at.op) || (at.op == OpKind::kEmbedding && at.attributes.indices == Indices::kPositions);
}

}  // namespace

Program::Program(ProgramSpec spec) : spec_(std::move(spec)) {
  for (const Value& value : spec_.values) {
    if (value.width < 1) broken("program value", "a positive width", std::to_string(value.width));
    if (!value.format.valid())
      broken("program value", "f32, bf16 or q8 rows in groups of 32, 64 or 128", value.format.name());
  }
  for (size_t i = 0; i < spec_.instructions.size(); ++i) {
    const Instruction& at = spec_.instructions[i];
    const std::string where = place(i, at);
    check_indices(at, where);
    check_instruction(at, where);
  }
  check_order();
}

void Program::check_indices(const Instruction& at, const std::string& where) const {
  const auto check = [&](const std::vector<int>& indices, int least, size_t size, const char* what) {
    for (const int i : indices) {
      if (i < least || i >= static_cast<int64_t>(size)) {
        broken(where, std::string(what) + " below " + std::to_string(size), std::to_string(i));
      }
    }
  };
  check(at.inputs, 0, spec_.values.size(), "an input");
  check(at.outputs, 0, spec_.values.size(), "an output");
  check(at.parameters, -1, spec_.parameters.size(), "a parameter");
}

void Program::check_instruction(const Instruction& at, const std::string& where) {
  op(at.op).check(Check(where, at, spec_.values, spec_.parameters));
  if (at.op == OpKind::kAttention && at.attributes.cross) {
    check_source(at, where);
  } else if (touches_kv(at.op)) {
    check_kv(at, where);
  }
  if (at.op == OpKind::kSsru) check_state(at, where);
  if (at.op == OpKind::kEmbedding) note_embedding(at);
  if (counts_positions(at)) check_rows(at, where);
  if (at.op == OpKind::kPool) pools_ = whole_sequences_ = true;
  if (at.op == OpKind::kAttention && !at.attributes.causal) whole_sequences_ = true;
}

// A table has a row for each position.
void Program::check_rows(const Instruction& at, const std::string& where) const {
  const Parameter& p = spec_.parameters[static_cast<size_t>(at.parameters[0])];
  const int64_t rows = p.floats != nullptr ? p.rows : p.matrix.rows;
  if (rows >= spec_.context_length) return;
  const std::string table = rotates(at.op) ? "a rope table of " : "a table of ";
  broken(where, table + std::to_string(spec_.context_length) + " positions", std::to_string(rows));
}

void Program::note_embedding(const Instruction& at) {
  const Parameter& table = spec_.parameters[static_cast<size_t>(at.parameters[0])];
  const int64_t rows = table.floats != nullptr ? table.rows : table.matrix.rows;
  const auto least = [rows](int64_t so_far) { return so_far == 0 ? rows : std::min(so_far, rows); };
  if (at.attributes.indices == Indices::kTokens) vocab_size_ = least(vocab_size_);
  if (at.attributes.indices == Indices::kTypes) n_types_ = least(n_types_);
}

void Program::check_kv(const Instruction& at, const std::string& where) {
  const Attributes& a = at.attributes;
  const bool first = kv_shape_.n_layers == 0;
  if (!first && (a.n_kv_heads != kv_shape_.n_kv_heads || a.head_dim != kv_shape_.head_dim)) {
    broken(where,
           "the KV heads of the other layers: " + std::to_string(kv_shape_.n_kv_heads) + " of " +
               std::to_string(kv_shape_.head_dim),
           std::to_string(a.n_kv_heads) + " of " + std::to_string(a.head_dim));
  }
  const std::string written = std::to_string(kv_shape_.n_layers);
  if (at.op == OpKind::kAttention) {  // a layer that isn't written holds what other requests left there
    if (a.layer >= 0 && a.layer < kv_shape_.n_layers) return;
    broken(where, "one of the " + written + " layers that earlier instructions wrote", std::to_string(a.layer));
  }
  if (a.layer >= 0 && a.layer < kv_shape_.n_layers) {  // its memory, once more
    whole_sequences_ = true;
    return;
  }
  if (a.layer != kv_shape_.n_layers) broken(where, "at most the next layer, " + written, std::to_string(a.layer));
  kv_shape_.n_kv_heads = a.n_kv_heads;
  kv_shape_.head_dim = a.head_dim;
  ++kv_shape_.n_layers;
}

// Every layer of the source is read, the next one after those before it.
void Program::check_source(const Instruction& at, const std::string& where) {
  const Attributes& a = at.attributes;
  const bool first = source_shape_.n_layers == 0;
  if (!first && (a.n_kv_heads != source_shape_.n_kv_heads || a.head_dim != source_shape_.head_dim)) {
    broken(where, "the KV heads of the other cross-attentions",
           std::to_string(a.n_kv_heads) + " of " + std::to_string(a.head_dim));
  }
  if (a.layer != source_shape_.n_layers) {
    broken(where, "the next layer, " + std::to_string(source_shape_.n_layers), std::to_string(a.layer));
  }
  source_shape_.n_kv_heads = a.n_kv_heads;
  source_shape_.head_dim = a.head_dim;
  ++source_shape_.n_layers;
}

void Program::check_state(const Instruction& at, const std::string& where) {
  const int64_t width = spec_.values[static_cast<size_t>(at.outputs[0])].width;
  if (kv_shape_.n_state_layers > 0 && width != kv_shape_.state_dim) {
    broken(where, "the width of the other states, " + std::to_string(kv_shape_.state_dim), std::to_string(width));
  }
  if (at.attributes.layer != kv_shape_.n_state_layers) {
    broken(where, "the next layer, " + std::to_string(kv_shape_.n_state_layers), std::to_string(at.attributes.layer));
  }
  kv_shape_.state_dim = width;
  ++kv_shape_.n_state_layers;
}

void Program::check_order() const {
  std::vector<bool> made(spec_.values.size(), false);
  for (size_t i = 0; i < spec_.instructions.size(); ++i) {
    const Instruction& at = spec_.instructions[i];
    for (const int v : at.inputs) {
      if (!made[static_cast<size_t>(v)])
        broken(place(i, at), "inputs that an earlier instruction made", "value " + std::to_string(v));
    }
    for (const int v : at.outputs) {
      if (made[static_cast<size_t>(v)]) broken(place(i, at), "a value that is made once", "value " + std::to_string(v));
      made[static_cast<size_t>(v)] = true;
    }
  }
  const int r = spec_.result;
  if (r < 0 || r >= static_cast<int64_t>(made.size()) || !made[static_cast<size_t>(r)]) {
    broken("program result", "a value that an instruction made", std::to_string(r));
  }
  const Value& result = spec_.values[static_cast<size_t>(r)];
  if (result.space != Space::kOutputs || result.format.quantized())
    broken("program result", "float rows of outputs", "another type");
  if (vocab_size_ == 0) broken("program", "an embedding", "none");
  if (spec_.context_length < 1) broken("program context_length", "at least 1", std::to_string(spec_.context_length));
}

}  // namespace jiffy
