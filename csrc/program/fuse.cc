// Peephole fusion. Each rule gives the same bits as the instructions it replaces, because the fused op does the same
// float operations in the same order; the unfused program stays the oracle (tests/test_fusion.py).
//
//   rms_norm, quantize                 -> rms_norm_quantize    the normalised rows never reach memory
//   gate matmul, up matmul, silu_mul   -> gate_up              one stream where the two were packed as a pair
//   matmul, gelu or activation         -> matmul               numbers that are in a register anyway
//   matmul, add                        -> matmul + residual
//   matmul, matmul (of one x)          -> matmul of several weights: one barrier for q, k and v
//   rope(q), rope(k), kv_write         -> rope_kv_write
#include <algorithm>
#include <optional>

#include "program/program.h"

namespace jiffy {
namespace {

Finish finish_of(Function function) {
  return function == Function::kRelu ? Finish::kRelu : function == Function::kTanh ? Finish::kTanh : Finish::kSilu;
}

class Fuser {
 public:
  explicit Fuser(const Program& program) : spec_(program.spec()) {
    uses_.assign(spec_.values.size(), 0);
    for (const Instruction& at : spec_.instructions) {
      for (const int v : at.inputs) ++uses_[static_cast<size_t>(v)];
    }
    ++uses_[static_cast<size_t>(spec_.result)];
  }

  ProgramSpec run() {
    for (const auto rule : {&Fuser::gate_up, &Fuser::activation, &Fuser::residual, &Fuser::norm_quantize,
                            &Fuser::rope_kv_write, &Fuser::merge}) {
      apply(rule);
    }
    return std::move(spec_);
  }

 private:
  // A rule looks at the instructions from `i` on and says what replaces how many of them.
  struct Replacement {
    size_t count;
    Instruction with;
  };
  using Rule = std::optional<Replacement> (Fuser::*)(size_t i) const;

  void apply(Rule rule) {
    std::vector<Instruction> kept;
    for (size_t i = 0; i < spec_.instructions.size();) {
      std::optional<Replacement> found = (this->*rule)(i);
      if (!found) {
        kept.push_back(spec_.instructions[i++]);
        continue;
      }
      // Try again with the result in the place of the last instruction that it replaced: merge() takes any number.
      i += found->count - 1;
      spec_.instructions[i] = std::move(found->with);
      if (!(this->*rule)(i)) kept.push_back(spec_.instructions[i++]);
    }
    spec_.instructions = std::move(kept);
  }

  const Instruction* at(size_t i, OpKind kind) const {
    return i < spec_.instructions.size() && spec_.instructions[i].op == kind ? &spec_.instructions[i] : nullptr;
  }
  bool only_use(int value) const { return uses_[static_cast<size_t>(value)] == 1; }
  const PackedMatrix& matrix(int parameter) const { return spec_.parameters[static_cast<size_t>(parameter)].matrix; }
  static bool plain(const Instruction* m) {  // one weight, no bias, no residual
    return m->outputs.size() == 1 && m->inputs.size() == 1 && m->parameters[1] < 0;
  }

  std::optional<Replacement> gate_up(size_t i) const {
    const Instruction *gate = at(i, OpKind::kMatmul), *up = at(i + 1, OpKind::kMatmul),
                      *mul = at(i + 2, OpKind::kSiluMul);
    if (gate == nullptr || up == nullptr || mul == nullptr || !plain(gate) || !plain(up)) return {};
    if (gate->inputs != up->inputs || !(matrix(gate->parameters[0]).format == matrix(up->parameters[0]).format))
      return {};
    if (mul->inputs != std::vector<int>{gate->outputs[0], up->outputs[0]}) return {};
    if (!only_use(gate->outputs[0]) || !only_use(up->outputs[0])) return {};
    return Replacement{3, {OpKind::kGateUp, gate->inputs, mul->outputs, {gate->parameters[0], up->parameters[0]}, {}}};
  }

  std::optional<Replacement> residual(size_t i) const {
    const Instruction *m = at(i, OpKind::kMatmul), *sum = at(i + 1, OpKind::kAdd);
    if (m == nullptr || sum == nullptr || m->outputs.size() != 1 || m->inputs.size() != 1) return {};
    if (sum->inputs[1] != m->outputs[0] || sum->inputs[0] == m->outputs[0] || !only_use(m->outputs[0])) return {};
    return Replacement{2,
                       {OpKind::kMatmul, {m->inputs[0], sum->inputs[0]}, sum->outputs, m->parameters, m->attributes}};
  }

  std::optional<Replacement> activation(size_t i) const {
    const Instruction *m = at(i, OpKind::kMatmul), *gelu = at(i + 1, OpKind::kGelu),
                      *other = at(i + 1, OpKind::kActivation), *end = gelu != nullptr ? gelu : other;
    if (m == nullptr || end == nullptr || m->outputs.size() != 1 || m->inputs.size() != 1) return {};
    if (m->attributes.finish != Finish::kNone || end->inputs != m->outputs || !only_use(m->outputs[0])) return {};
    Instruction both = *m;
    both.outputs = end->outputs;
    both.attributes.finish = gelu != nullptr ? (gelu->attributes.tanh ? Finish::kGeluTanh : Finish::kGelu)
                                             : finish_of(other->attributes.function);
    return Replacement{2, std::move(both)};
  }

  std::optional<Replacement> norm_quantize(size_t i) const {
    const Instruction *norm = at(i, OpKind::kRmsNorm), *q = at(i + 1, OpKind::kQuantize);
    if (norm == nullptr || q == nullptr || q->inputs != norm->outputs || !only_use(norm->outputs[0])) return {};
    return Replacement{2, {OpKind::kRmsNormQuantize, norm->inputs, q->outputs, norm->parameters, norm->attributes}};
  }

  std::optional<Replacement> rope_kv_write(size_t i) const {
    const Instruction *q = at(i, OpKind::kRope), *k = at(i + 1, OpKind::kRope), *write = at(i + 2, OpKind::kKvWrite);
    if (q == nullptr || k == nullptr || write == nullptr || q->parameters != k->parameters) return {};
    if (write->inputs[0] != k->outputs[0] || !only_use(k->outputs[0]) || !only_use(k->inputs[0])) return {};
    Attributes attributes = write->attributes;
    if (k->attributes.n_heads != attributes.n_kv_heads || k->attributes.head_dim != attributes.head_dim) return {};
    attributes.n_heads = q->attributes.n_heads;
    return Replacement{
        3,
        {OpKind::kRopeKvWrite, {q->inputs[0], k->inputs[0], write->inputs[1]}, q->outputs, q->parameters, attributes}};
  }

  std::optional<Replacement> merge(size_t i) const {
    const Instruction *a = at(i, OpKind::kMatmul), *b = at(i + 1, OpKind::kMatmul);
    if (a == nullptr || b == nullptr || a->inputs.size() != 1 || a->inputs != b->inputs) return {};
    if (a->attributes.finish != b->attributes.finish) return {};
    Instruction both = *a;
    both.outputs.insert(both.outputs.end(), b->outputs.begin(), b->outputs.end());
    both.parameters.insert(both.parameters.end(), b->parameters.begin(), b->parameters.end());
    return Replacement{2, std::move(both)};
  }

  ProgramSpec spec_;
  std::vector<int> uses_;
};

}  // namespace

ProgramSpec fuse(const Program& program) { return Fuser(program).run(); }

}  // namespace jiffy
