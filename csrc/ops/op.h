// An instruction of a program, and what every op provides: a check when the program is built, and a run in a parallel
// region.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "kernels/cpu/kernels.h"
#include "ops/batch.h"
#include "ops/kept_logits.h"
#include "ops/kv_layout.h"
#include "ops/rope_table.h"
#include "quant/activations.h"

namespace jiffy {

enum class Space : uint8_t { kTokens, kOutputs };  // one row a token of the batch; one row whose logits are asked for

// The type of a value: its rows, and how they are stored (quant/activations.h).
struct Value {
  Space space = Space::kTokens;
  int64_t width = 0;
  RowFormat format = {};

  int64_t row_bytes() const { return activation_row_bytes(width, format); }
};

// What an instruction reads besides values: a packed matrix, or floats [rows, cols] (norm weights, biases, rope
// tables).
struct Parameter {
  std::string name;
  PackedMatrix matrix;            // data == nullptr: floats
  const float* floats = nullptr;  // [rows, cols]
  int64_t rows = 0, cols = 0;
  std::shared_ptr<const RopeTable> rope = nullptr;  // what the floats are of, if they are one
};

enum class OpKind : uint8_t {
  kEmbedding,        // -> rows                            parameters: table, a matrix or floats
  kRmsNorm,          // x -> y                             parameters: weight
  kLayerNorm,        // x -> y                             parameters: weight, bias or -1
  kQuantize,         // x -> q8 or bf16
  kMatmul,           // x [, residual] -> y0, y1, ...      parameters: (weight, bias or -1) for each output
  kRope,             // x -> y                             parameters: cosines, sines
  kKvWrite,          // k, v ->
  kAttention,        // q -> y                             parameters: none, or bias [n_heads, 2 * reach + 1]
  kAdd,              // a, b -> y
  kSiluMul,          // gate, up -> y
  kGelu,             // x -> y
  kSelect,           // rows of tokens -> rows of outputs
  kMul,              // a, b -> y
  kActivation,       // x -> y
  kPool,             // rows of tokens -> one row a slice, which are the outputs then
  kSsru,             // forget, x -> y
  kRotateQuantize,   // x -> q8
  kRmsNormQuantize,  // x -> q8 or bf16                    parameters: weight             fused: the rest of the list
  kGateUp,           // x -> y                             parameters: gate, up
  kRopeKvWrite,      // q, k, v -> rotated q               parameters: cosines, sines
};

// What an embedding's rows are found by.
enum class Indices : uint8_t { kTokens, kTypes, kPositions };

// What an op needs to know beyond its operands; fields that it doesn't use stay as they are.
struct Attributes {
  float eps = 0.0f;    // rms_norm, layer_norm
  float scale = 0.0f;  // attention, embedding
  int64_t layer = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0;
  int64_t window = 0;  // attention: 0, or how many positions a token sees on a side, its own among them
  bool causal = true;  // attention: false lets a token see those behind it, too; a sequence is then one slice
  bool tanh = false;   // gelu: approximated by tanh
  bool cross = false;  // attention: to the text that the batch names as a source, whose keys and values are there
  Indices indices = Indices::kTokens;   // embedding
  Function function = Function::kRelu;  // activation
  Finish finish = Finish::kNone;        // matmul, fused
  Pooling pooling = Pooling::kMean;     // pool
};

struct Instruction {
  OpKind op;
  std::vector<int> inputs, outputs;  // values
  std::vector<int> parameters;       // -1: none in this place
  Attributes attributes;
};

// An instruction with all that its check may look at. Each function throws Error kFormat that names the instruction.
class Check {
 public:
  Check(std::string where, const Instruction& at, const std::vector<Value>& values,
        const std::vector<Parameter>& parameters)
      : at(at), where_(std::move(where)), values_(values), parameters_(parameters) {}

  const Instruction& at;

  void counts(size_t inputs, size_t outputs, size_t parameters) const;
  const Value& input(size_t i) const { return values_[static_cast<size_t>(at.inputs[i])]; }
  const Value& output(size_t i) const { return values_[static_cast<size_t>(at.outputs[i])]; }
  bool has_parameter(size_t i) const { return at.parameters[i] >= 0; }
  const Parameter& parameter(size_t i) const { return parameters_[static_cast<size_t>(at.parameters[i])]; }

  void is_float(const Value& value, int64_t width) const;              // f32 rows of this width
  void is_matrix(size_t parameter, int64_t cols) const;                // packed, [any, cols]
  void is_floats(size_t parameter, int64_t rows, int64_t cols) const;  // rows 0: any
  void same_space(const Value& a, const Value& b) const;
  void positive(int64_t value, const char* name) const;  // and below 2^31, so that products don't overflow
  void that(bool condition, const std::string& expected, const std::string& found) const;

 private:
  std::string where_;
  const std::vector<Value>& values_;
  const std::vector<Parameter>& parameters_;
};

// A value's rows in this step. A matmul's output with a keeper has no data: what that keeps is all that is wanted.
struct Operand {
  void* data = nullptr;
  Value type;
  int64_t rows = 0;
  const LogitKeeper* keeper = nullptr;
  bool wide_runs = false;                         // of quantised ones, as Kernels::wants_wide_runs says
  std::span<const CandidateRun> candidates = {};  // of a matmul's output: each row has its own only, from its beginning

  float* floats() const { return static_cast<float*>(data); }  // [rows, type.width]
  ActivationView quantized() const { return activation_view(data, rows, type.width, type.format, wide_runs); }
};

// An instruction resolved for one step.
struct Call {
  const Instruction& at;
  const std::vector<Operand>& operands;
  const std::vector<Parameter>& parameters;
  const BatchView& batch;
  const KvLayout& kv;

  const Operand& input(size_t i) const { return operands[static_cast<size_t>(at.inputs[i])]; }
  const Operand& output(size_t i) const { return operands[static_cast<size_t>(at.outputs[i])]; }
  bool has_parameter(size_t i) const { return at.parameters[i] >= 0; }
  const Parameter& parameter(size_t i) const { return parameters[static_cast<size_t>(at.parameters[i])]; }

  // What a run of a matmul's rows is multiplied with, and its bias or nullptr.
  const PackedMatrix& weight_of(const CandidateRun& run) const {
    return run.weight.data != nullptr ? run.weight : parameter(0).matrix;
  }
  const float* bias_of(const CandidateRun& run) const {
    return run.weight.data != nullptr || !has_parameter(1) ? run.bias : parameter(1).floats;
  }
};

// What lanes leave to each other within an op: 120 thousand positions of a head_dim of 64 and 32 heads.
inline constexpr int64_t kSharedFloats = 1 << 20;

// A lane of the step's parallel region, with what its ops may use.
struct Worker {
  Lane& lane;
  const Kernels& kernels;
  float* scratch;      // 64-byte aligned, this lane's own; scratch_floats()
  float* shared;       // [kSharedFloats], 64-byte aligned, of all lanes
  bool alone = false;  // this lane does the whole instruction, into rows of its own

  // Deals rows (or other items) out over the lanes in pieces: body(begin, end).
  template <class Body>
  void share(int64_t items, int64_t piece, Body&& body) {
    if (alone) return body(int64_t{0}, items);
    for (int64_t begin; (begin = lane.next_chunk() * piece) < items;) {
      body(begin, begin + piece < items ? begin + piece : items);
    }
  }
};

// What the ops of a program with such parameters need of it, in whole cache lines.
int64_t scratch_floats(const std::vector<Parameter>& parameters, int64_t head_dim, const Kernels& kernels);

// Neither run allocates or throws; the executor ends a phase behind every instruction. All work is shared out in
// chunks, and before its first one a lane reads nothing that a step changes: it may have come late and find the phase
// over.
struct Op {
  const char* name;
  void (*check)(const Check&);
  void (*run)(const Call&, Worker&);
  bool replicable = false;  // so cheap for a row that every lane had better do it alone than wait for the others
};
const Op& op(OpKind kind);
std::optional<OpKind> op_named(std::string_view name);

void check_embedding(const Check&);
void run_embedding(const Call&, Worker&);
void check_rms_norm(const Check&);
void run_rms_norm(const Call&, Worker&);
void check_layer_norm(const Check&);
void run_layer_norm(const Call&, Worker&);
void check_quantize(const Check&);
void run_quantize(const Call&, Worker&);
void check_rotate_quantize(const Check&);
void run_rotate_quantize(const Call&, Worker&);
void check_rms_norm_quantize(const Check&);
void run_rms_norm_quantize(const Call&, Worker&);
void check_matmul(const Check&);
void run_matmul(const Call&, Worker&);
void check_gate_up(const Check&);
void run_gate_up(const Call&, Worker&);
void check_rope(const Check&);
void run_rope(const Call&, Worker&);
void check_kv_write(const Check&);
void run_kv_write(const Call&, Worker&);
void check_rope_kv_write(const Check&);
void run_rope_kv_write(const Call&, Worker&);
void check_attention(const Check&);
void run_attention(const Call&, Worker&);
void check_add(const Check&);
void run_add(const Call&, Worker&);
void check_silu_mul(const Check&);
void run_silu_mul(const Call&, Worker&);
void check_gelu(const Check&);
void run_gelu(const Call&, Worker&);
void check_select(const Check&);
void run_select(const Call&, Worker&);
void check_mul(const Check&);
void run_mul(const Call&, Worker&);
void check_activation(const Check&);
void run_activation(const Call&, Worker&);
void check_pool(const Check&);
void run_pool(const Call&, Worker&);
void check_ssru(const Check&);
void run_ssru(const Call&, Worker&);

}  // namespace jiffy
