// A model as a flat list of instructions over typed values: plain data, validated when it is built, immutable after.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ops/op.h"

namespace jiffy {

// What a program is built from. `owners` keeps the memory of the parameters alive.
struct ProgramSpec {
  std::vector<Value> values;
  std::vector<Parameter> parameters;
  std::vector<Instruction> instructions;
  int result = -1;  // the logits: a float value of Space::kOutputs
  int64_t context_length = 0;
  std::vector<std::shared_ptr<const void>> owners;
};

class Program {
 public:
  // Checks every instruction and that each value is made once, before it is used. Throws Error kFormat naming the
  // instruction and the parameter.
  explicit Program(ProgramSpec spec);

  const std::vector<Value>& values() const { return spec_.values; }
  const std::vector<Parameter>& parameters() const { return spec_.parameters; }
  const std::vector<Instruction>& instructions() const { return spec_.instructions; }
  int result() const { return spec_.result; }
  const ProgramSpec& spec() const { return spec_; }

  int64_t result_width() const { return spec_.values[static_cast<size_t>(spec_.result)].width; }
  int64_t vocab_size() const { return vocab_size_; }  // ids that every embedding has a row for
  int64_t n_types() const { return n_types_; }        // the same for types; 0: it asks for none
  int64_t context_length() const { return spec_.context_length; }
  KvLayout kv_shape() const { return kv_shape_; }  // data is null; all zero without attention and recurrent layers
  KvLayout source_shape() const { return source_shape_; }  // the same of what cross-attention reads
  bool pools() const { return pools_; }                    // its outputs are one for each slice of a batch
  // Each sequence must be one slice: tokens see those behind them, or layers share the memory of keys and values.
  bool takes_whole_sequences() const { return whole_sequences_; }

 private:
  void check_indices(const Instruction& at, const std::string& where) const;
  void check_order() const;
  void check_kv(const Instruction& at, const std::string& where);
  void check_source(const Instruction& at, const std::string& where);
  void check_state(const Instruction& at, const std::string& where);
  void check_rows(const Instruction& at, const std::string& where) const;
  void note_embedding(const Instruction& at);
  void check_instruction(const Instruction& at, const std::string& where);

  ProgramSpec spec_;
  int64_t vocab_size_ = 0, n_types_ = 0;
  bool pools_ = false, whole_sequences_ = false;
  KvLayout kv_shape_, source_shape_;
};

// The same results, bit for bit, in fewer instructions (fuse.cc).
ProgramSpec fuse(const Program& program);

// Which buffer each value uses (plan.cc): values whose lives don't overlap share one. And which instructions of a small
// step are replicated: every lane does them alone, for the next shared one, instead of waiting for the others.
struct Plan {
  struct Slot {
    int64_t token_row_bytes = 0, output_row_bytes = 0;  // the most that any of its values needs
    int64_t bytes(int64_t n_tokens, int64_t n_outputs) const;
  };
  std::vector<int> slot_of;  // [values]; -1: the result, which the caller owns
  std::vector<Slot> slots;
  std::vector<bool> replicated;  // [instructions]
};
Plan plan_buffers(const Program& program);

}  // namespace jiffy
