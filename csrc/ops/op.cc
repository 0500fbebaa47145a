#include "ops/op.h"

#include <algorithm>

namespace jiffy {
namespace {

// In the order of OpKind.
constexpr Op kOps[] = {
    {"embedding", check_embedding, run_embedding, true},
    {"rms_norm", check_rms_norm, run_rms_norm, true},
    {"layer_norm", check_layer_norm, run_layer_norm, true},
    {"quantize", check_quantize, run_quantize, true},
    {"matmul", check_matmul, run_matmul},
    {"rope", check_rope, run_rope},
    {"kv_write", check_kv_write, run_kv_write},
    {"attention", check_attention, run_attention},
    {"add", check_add, run_add, true},
    {"silu_mul", check_silu_mul, run_silu_mul},
    {"gelu", check_gelu, run_gelu},
    {"select", check_select, run_select, true},
    {"mul", check_mul, run_mul},
    {"activation", check_activation, run_activation, true},
    {"pool", check_pool, run_pool},
    {"ssru", check_ssru, run_ssru},
    {"rotate_quantize", check_rotate_quantize, run_rotate_quantize, true},
    {"rms_norm_quantize", check_rms_norm_quantize, run_rms_norm_quantize, true},
    {"gate_up", check_gate_up, run_gate_up},
    {"rope_kv_write", check_rope_kv_write, run_rope_kv_write},
};
static_assert(std::size(kOps) == static_cast<size_t>(OpKind::kRopeKvWrite) + 1);

std::string shape(int64_t rows, int64_t cols) { return "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]"; }

std::string describe(const Value& value) { return value.format.name() + " rows of " + std::to_string(value.width); }

// What a matmul copies of a run of candidates at a time.
constexpr int64_t copied_rows_floats(int64_t cols, const RowFormat& format) {
  return kMaxTileRows * activation_row_bytes(cols, format) / static_cast<int64_t>(sizeof(float));
}

}  // namespace

const Op& op(OpKind kind) { return kOps[static_cast<size_t>(kind)]; }

std::optional<OpKind> op_named(std::string_view name) {
  for (size_t i = 0; i < std::size(kOps); ++i) {
    if (name == kOps[i].name) return static_cast<OpKind>(i);
  }
  return {};
}

int64_t scratch_floats(const std::vector<Parameter>& parameters, int64_t head_dim, const Kernels& kernels) {
  int64_t floats = attention_scratch_floats(head_dim);
  for (const Parameter& p : parameters) {
    if (p.matrix.data == nullptr) continue;
    const RowFormat rows = activation_format(p.matrix.format);
    if (rows.quantized()) floats = std::max(floats, copied_rows_floats(p.matrix.cols, rows));
    if (!kernels.wants_wide_runs(rows, INT32_MAX)) continue;
    floats = std::max(floats, matmul_scratch_floats(padded_cols(p.matrix.format, p.matrix.cols)));
  }
  return (floats + 15) / 16 * 16;
}

void Check::that(bool condition, const std::string& expected, const std::string& found) const {
  if (!condition) fail(ErrorKind::kFormat, where_, expected, found);
}

void Check::counts(size_t inputs, size_t outputs, size_t parameters) const {
  const auto text = [](size_t i, size_t o, size_t p) {
    return std::to_string(i) + " inputs, " + std::to_string(o) + " outputs, " + std::to_string(p) + " parameters";
  };
  that(at.inputs.size() == inputs && at.outputs.size() == outputs && at.parameters.size() == parameters,
       text(inputs, outputs, parameters), text(at.inputs.size(), at.outputs.size(), at.parameters.size()));
}

void Check::is_float(const Value& value, int64_t width) const {
  that(!value.format.quantized() && value.width == width, describe({.width = width}), describe(value));
}

void Check::is_matrix(size_t i, int64_t cols) const {
  that(has_parameter(i), "a weight matrix", "none");
  const Parameter& p = parameter(i);
  that(p.matrix.data != nullptr && p.matrix.cols == cols,
       p.name + ": a packed matrix [any, " + std::to_string(cols) + "]",
       p.matrix.data == nullptr ? "floats" : shape(p.matrix.rows, p.matrix.cols));
}

void Check::is_floats(size_t i, int64_t rows, int64_t cols) const {
  that(has_parameter(i), "a float parameter", "none");
  const Parameter& p = parameter(i);
  that(p.floats != nullptr && (rows == 0 || p.rows == rows) && p.cols == cols, p.name + ": floats " + shape(rows, cols),
       p.floats == nullptr ? "a packed matrix" : shape(p.rows, p.cols));
}

void Check::same_space(const Value& a, const Value& b) const {
  that(a.space == b.space, "operands with the same rows", "one row a token beside one row an output");
}

void Check::positive(int64_t value, const char* name) const {
  that(value > 0 && value <= INT32_MAX, std::string(name) + " of 1 to 2147483647", std::to_string(value));
}

}  // namespace jiffy
