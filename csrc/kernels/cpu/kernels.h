// THE list of kernels. A line here yields the declaration in every instruction set's namespace and the slot in the
// dispatch table; tests/native/test_kernels.cc runs each line on every set and compares the bits.
//
// A kernel computes and nothing else: raw pointers in, no allocation, no threads. `begin` and `end` bound the share of
// the work that one call does, so that ops decide how threads split it.
#pragma once

#include <cstdint>

#include "kernels/cpu/kv_head.h"
#include "quant/activations.h"
#include "quant/format.h"

namespace jiffy {

// y[r,:] = x[r,:] / sqrt(mean(x[r,:]^2) + eps) * w
struct RmsNormArgs {
  const float* x;       // [rows, dim]
  const float* weight;  // [dim]
  float* y;             // [rows, dim]
  int64_t dim;
  float eps;
  int64_t begin, end;  // rows
};

// y[r,:] = (x[r,:] - mean) / sqrt(variance + eps) * w (+ b), mean and variance of x[r,:]
struct LayerNormArgs {
  const float* x;       // [rows, dim]
  const float* weight;  // [dim]
  const float* bias;    // [dim] or nullptr
  float* y;             // [rows, dim]
  int64_t dim;
  float eps;
  int64_t begin, end;  // rows
};

// A share of quantised rows: columns of whole tiles of rows.
inline constexpr int64_t kColsTogether = 128;  // every group is a whole part of so many columns
struct TileRange {
  int64_t begin, end;          // of the tiles of ActivationView
  int64_t first_col, end_col;  // multiples of kColsTogether, or out.cols as the end
};

// out = quantised x, as q8 or bf16 (quant/activations.h)
struct QuantizeArgs {
  const float* x;  // [rows, out.cols]
  ActivationView out;
  TileRange tiles;
};

// out = quantised rotated x, as q8, where every 128 columns are multiplied by a Hadamard matrix over 8: column 16 i + j
// becomes the sum over k of (-1)^popcount(i & k) times column 16 k + j. out.cols is a multiple of kRotated.
inline constexpr int64_t kRotated = 128;
struct RotateQuantizeArgs {
  const float* x;  // [rows, out.cols]
  ActivationView out;
  TileRange tiles;
};

// out = quantised rms_norm(x); the normalised rows never reach memory
struct RmsNormQuantizeArgs {
  const float* x;       // [rows, out.cols]
  const float* weight;  // [out.cols]
  ActivationView out;
  float eps;
  TileRange tiles;
};

// What a matmul may make of its outputs at once: what gelu and activation make of them later.
enum class Finish : uint8_t { kNone, kGelu, kGeluTanh, kRelu, kTanh, kSilu };

// y[r,n] = finish(sum_k x[r,k] * w[n,k] (+ bias[n])) (+ residual[r,n])
// with a second matrix `up`: y[r,n] = silu(gate) * up, where gate = (x w^T)[r,n] and up = (x up^T)[r,n]
struct MatmulArgs {
  PackedMatrix weight;           // [n, k]
  PackedMatrix up;               // [n, k] in the same format; data == nullptr: none
  ActivationView x;              // quantised [rows, k], as activation_format() of the weights
  const float* x_f32 = nullptr;  // [rows, k], for f32 weights
  int64_t rows = 0;
  float* y = nullptr;  // [rows, y_stride]
  int64_t y_stride = 0;
  const float* bias = nullptr;  // [n]
  Finish finish = Finish::kNone;
  const float* residual = nullptr;  // [rows, y_stride]
  int64_t begin = 0, end = 0;       // slabs of 16 outputs
  bool native_pairs = false;        // bf16: as Kernels::native_pairs says
  bool far_prefetch = false;        // as Kernels::far_prefetch says
  float* scratch = nullptr;         // [matmul_scratch_floats(x.padded())], 64-byte aligned; for q8 x in wide runs
};
// Of two slabs: codes as bytes, and two headers in f32 for each group of 32.
constexpr int64_t matmul_scratch_floats(int64_t cols_padded) { return 2 * (4 + 1) * cols_padded; }

// y[i,:] = scale * table[ids[i],:]
struct EmbeddingArgs {
  PackedMatrix table;  // [vocab_size, dim]
  const int32_t* ids;  // [rows]
  float* y;            // [rows, dim]
  float scale;
  int64_t begin, end;  // rows
};

// Rotates the pairs (i, i + head_dim / 2) of every head by the angle of its position (rotate-half convention,
// RoFormer).
struct RopeArgs {
  const float* x;            // [rows, n_heads * head_dim]
  float* y;                  // the same shape; may be x
  const int32_t* positions;  // [rows]
  const float* cosines;      // [context, head_dim / 2]
  const float* sines;        // [context, head_dim / 2]
  int64_t n_heads, head_dim;
  int64_t begin, end;  // rows
};

// y = a + b
struct AddArgs {
  const float* a;
  const float* b;
  float* y;
  int64_t begin, end;  // elements
};

// y = a * b
struct MulArgs {
  const float* a;
  const float* b;
  float* y;
  int64_t begin, end;  // elements
};

// y = f(x): max(x, 0), tanh(x), x / (1 + exp(-x))
enum class Function : uint8_t { kRelu, kTanh, kSilu };
struct ActivationArgs {
  const float* x;
  float* y;
  Function function;
  int64_t begin, end;  // elements
};

// y = one row of all rows of x: their mean, their largest elements, the first, the last
enum class Pooling : uint8_t { kMean, kMax, kFirst, kLast };
struct PoolArgs {
  const float* x;  // [rows, dim], at least one row
  float* y;        // [dim]
  int64_t rows, dim;
  Pooling pooling;
};

// y = gate / (1 + exp(-gate)) * up
struct SiluMulArgs {
  const float* gate;
  const float* up;
  float* y;
  int64_t begin, end;  // elements
};

// y = x Phi(x), Phi the distribution function of the standard normal; or its approximation
// x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))    (Hendrycks and Gimpel 2016)
struct GeluArgs {
  const float* x;
  float* y;
  bool tanh;
  int64_t begin, end;  // elements
};

// The simpler simple recurrent unit of one token (Kim et al. 2019): s = sigmoid(f), c' = s * c + (1 - s) * x,
// y = max(c', 0)
struct SsruArgs {
  const float* forget;  // f
  const float* x;
  const float* before;  // c; nullptr: 0, at the beginning of a sequence
  float* after;         // c'
  float* y;
  int64_t begin, end;  // elements
};

inline constexpr int kSegment = 512;       // absolute positions that attention sums apart from all others
inline constexpr int kAttentionTile = 64;  // positions whose int8 probabilities share a scale
inline constexpr int kAttentionRows = 48;  // (token, query head) rows that share a read of K and V from far memory

// Stores the keys and values of the positions [position, position + end - begin).
struct KvWriteArgs {
  KvHeadView kv;
  const float* k;  // [rows, stride], at this head
  const float* v;  // [rows, stride], at this head
  int64_t stride;
  int64_t position;    // of row `begin`
  int64_t begin, end;  // rows
};

// Threads may share the rows of a long sequence: each computes states of single segments, which are merged later.
enum class AttentionPart : uint8_t { kAll, kSegment, kMerge };

// out[r] = softmax(scale * q[r] K^T (+ bias[r]) over the positions [first[r], end[r])) V, for rows that share a KV
// head. The bias of a position depends on its distance from the row's own position alone, which is clipped to +-reach.
// Positions are summed within fixed segments of absolute position, segments in ascending order, whatever the batch, the
// chunk or the part: the bits depend on the row alone.
struct AttentionArgs {
  KvHeadView kv;
  int64_t rows;           // 1..kAttentionRows
  const float* const* q;  // [rows] -> [head_dim]
  float* const* out;      // [rows] -> [head_dim]
  const int32_t* first;   // [rows], each >= 0
  const int32_t* end;     // [rows], each > first
  float scale;
  float* scratch;             // [attention_scratch_floats(head_dim)], 64-byte aligned
  bool native_pairs = false;  // as Kernels::native_pairs says
  AttentionPart part = AttentionPart::kAll;
  int64_t segment = 0;            // kSegment: computes states of this one; kMerge: states begin at this one
  int64_t next_segment = 0;       // kSegment: what this thread computes next, probably; 0: unknown
  const uint8_t* next = nullptr;  // keys of a block, its values behind them, that this thread reads next, probably
  float* states = nullptr;  // [rows, attention_state_floats(head_dim)], for kMerge of all segments, 64-byte aligned
  const float* const* bias = nullptr;  // [rows] -> [2 * reach + 1], for the distances -reach to reach; nullptr: none
  const int32_t* position = nullptr;   // [rows], beside a bias
  int64_t reach = 0;
};
constexpr int64_t attention_state_floats(int64_t head_dim) { return padded_head_dim(head_dim) + 16; }
constexpr int64_t attention_scratch_floats(int64_t head_dim) {
  constexpr int64_t kGroupRows = 12, kRowFloats = kSegment + 16;  // attention_tile.h
  return (kAttentionRows + kGroupRows) * (kRowFloats + attention_state_floats(head_dim)) + 4 * kAttentionRows +
         kGroupRows * 16 + kBlockSize / 2 * padded_head_dim(head_dim);
}

inline constexpr int64_t kMaxBlock = 64;

// *index = the lowest i with the largest x[i], or -1 if any x is NaN or infinite
struct ArgmaxArgs {
  const float* x;
  int64_t n;
  int64_t* index;
  float* maxima = nullptr;  // [ceil(n / kMaxBlock)] or nullptr: the largest of each block of x
};

// What a softmax needs to know of kLogitBlock consecutive logits x: their largest, and the sum of exp(x - largest) in a
// fixed order; both NaN if one of them is NaN or infinite.
inline constexpr int64_t kLogitBlock = 256;
struct LogitBlock {
  float largest, sum;
};
struct LogitBlocksArgs {
  const float* x;
  int64_t n;
  LogitBlock* blocks;  // [ceil(n / kLogitBlock)]
  bool sums;           // false: the largest alone, and no sum
};

// y[i] = exp((x[i] - max) * inverse_temperature); *sum = their sum in a fixed order
struct SoftmaxArgs {
  const float* x;
  float* y;  // or nullptr: only the sum
  int64_t n;
  float max, inverse_temperature;
  double* sum;
};

// *sum = of all 32-bit words of `streams` (1, 2 or 4) equal parts that are read side by side
struct ReadProbeArgs {
  const uint8_t* data;
  int64_t bytes;
  int streams;
  int32_t* sum;
};

// Nothing but independent multiply-adds of one kind; *operations = how many that were, two for each multiply-add, or 0
// if this set has no instruction for them.
enum class Arithmetic : uint8_t { kInt8, kBf16, kF32 };
struct PeakProbeArgs {
  Arithmetic arithmetic;
  int64_t repeats;
  int64_t* operations;
  bool matrix_tiles = false;  // as Kernels::matrix_tiles says
};

#define JIFFY_KERNELS(X)                    \
  X(rms_norm, RmsNormArgs)                  \
  X(layer_norm, LayerNormArgs)              \
  X(quantize, QuantizeArgs)                 \
  X(rotate_quantize, RotateQuantizeArgs)    \
  X(rms_norm_quantize, RmsNormQuantizeArgs) \
  X(matmul, MatmulArgs)                     \
  X(embedding, EmbeddingArgs)               \
  X(rope, RopeArgs)                         \
  X(add, AddArgs)                           \
  X(mul, MulArgs)                           \
  X(activation, ActivationArgs)             \
  X(pool, PoolArgs)                         \
  X(silu_mul, SiluMulArgs)                  \
  X(gelu, GeluArgs)                         \
  X(ssru, SsruArgs)                         \
  X(kv_write, KvWriteArgs)                  \
  X(attention, AttentionArgs)               \
  X(argmax, ArgmaxArgs)                     \
  X(logit_blocks, LogitBlocksArgs)          \
  X(softmax, SoftmaxArgs)                   \
  X(read_probe, ReadProbeArgs)              \
  X(peak_probe, PeakProbeArgs)

// The kernels of one instruction set.
struct Kernels {
  const char* isa;
  bool native_pairs;  // the CPU multiplies pairs of bf16 in one instruction, which not every one with this set does
  bool matrix_tiles = false;  // it multiplies matrices of int8 and bf16: rows are then stored for that
  bool far_prefetch = false;  // its memory answers late: weights are asked for earlier

  // As quant/activations.h says. Few q8 rows are faster without: widening a slab's codes and scaling a group's sums
  // have to pay. Granite Rapids, with against without: groups of 32, 24 rows 1.01, 32 rows 1.27; groups of 128, 16
  // rows, 2.3 (4-bit weights) and 2.6 (8) in cache, 0.93 and 1.06 from memory. Sums of bf16 have bits of their own
  // there, so that all rows go one way.
  bool wants_wide_runs(const RowFormat& format, int64_t rows) const {
    const int64_t least = format.group < 128 ? 2 * kMatrixTileRows : kMatrixTileRows;
    return matrix_tiles && (format.bits == 16 || (format.bits == 8 && rows >= least));
  }
#define JIFFY_SLOT(name, Args) void (*name)(const Args&);
  JIFFY_KERNELS(JIFFY_SLOT)
#undef JIFFY_SLOT
};

#define JIFFY_DECLARE(name, Args) void name(const Args&);
namespace scalar {
JIFFY_KERNELS(JIFFY_DECLARE)
}
namespace avx2 {
JIFFY_KERNELS(JIFFY_DECLARE)
}
namespace avxvnni {
JIFFY_KERNELS(JIFFY_DECLARE)
}
namespace avx512 {
JIFFY_KERNELS(JIFFY_DECLARE)
}
#undef JIFFY_DECLARE

}  // namespace jiffy
