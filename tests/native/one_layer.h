// A program of one layer with every op that a trace can hold, for tests to break.
#pragma once

#include "program/program.h"
#include "support.h"

namespace jiffy::check {

namespace one_layer {
inline constexpr int64_t kWidth = 32, kContext = 8, kVocab = 20;
inline constexpr Attributes kQueryHeads{.scale = 0.25f, .n_heads = 2, .n_kv_heads = 1, .head_dim = 16};
}  // namespace one_layer

// y = x + attention(norm(x)), z = y + ffn(y), gelu(layer_norm(z)), with weights of zeros.
ProgramSpec one_layer_spec();
ProgramSpec one_layer_fused_spec();

// Adds weights of zeros.
int zero_weight(Trace& t, int64_t rows, int64_t cols, const char* format);

// The first instruction of this kind.
Instruction& find(ProgramSpec& spec, OpKind kind);

}  // namespace jiffy::check
