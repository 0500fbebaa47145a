// Single ops on arrays, outside of a model: what jiffy.ops calls and `jiffy bench kernels` times.
#pragma once

#include <memory>
#include <vector>

#include "base/buffer.h"
#include "ops/op.h"

namespace jiffy {

// The keys and values of a ragged batch: a KV cache of one layer that holds these sequences and nothing else; with a
// state_dim, of one recurrent layer, too.
class RaggedKv {
 public:
  // Zeros. Throws kParameter for shapes that attention doesn't take or sequences without tokens, kOutOfMemory.
  RaggedKv(KvType type, int64_t n_kv_heads, int64_t head_dim, std::vector<int64_t> lengths, int64_t state_dim = 0);

  const KvLayout& layout() const { return layout_; }
  const Buffer& memory() const { return memory_; }

  // Rows for the last counts[i] tokens of each sequence i, 1..lengths[i]. Throws kParameter.
  std::vector<SliceView> slices(const std::vector<int64_t>& counts) const;

 private:
  std::vector<int64_t> lengths_;
  std::vector<int32_t> blocks_;  // 0, 1, 2, ...: the block tables of all sequences, one behind the other
  KvLayout layout_;
  Buffer memory_;
};

// Work that all lanes of a pool do together, ready to be done any number of times.
class Work {
 public:
  virtual ~Work() = default;
  // Of each lane's scratch memory.
  virtual int64_t scratch_floats(const Kernels&) const { return 0; }
  virtual void run(Worker& worker) const = 0;
};

// One instruction. The memory of operands and parameters is the caller's to keep; `owners` may help.
struct OpCallSpec {
  Instruction at;
  std::vector<Operand> operands;  // what at.inputs and at.outputs count
  std::vector<Parameter> parameters;
  std::vector<int32_t> token_ids;      // [rows], for embedding
  std::vector<int32_t> positions;      // [rows], for rope; kv_write and attention take those of `kv`
  std::shared_ptr<const RaggedKv> kv;  // for kv_write and attention
  std::vector<int64_t> counts;         // of tokens of each sequence of `kv`
  std::vector<std::shared_ptr<const void>> owners;
};

class OpCall : public Work {
 public:
  // Throws kFormat naming the op where operands don't fit its instruction, kParameter for ids or positions out of
  // range.
  explicit OpCall(OpCallSpec spec);
  int64_t scratch_floats(const Kernels& kernels) const override;
  void run(Worker& worker) const override;

 private:
  void check_operands();
  void check_batch() const;

  OpCallSpec spec_;
  int64_t rows_ = 0;
  std::vector<SliceView> slices_;
};

// The kernels of sampling over rows [rows, n], a row at a time.
class ArgmaxRows : public Work {
 public:
  ArgmaxRows(const float* x, int64_t rows, int64_t n, int64_t* indices)  // indices: [rows]
      : x_(x), rows_(rows), n_(n), indices_(indices) {}
  void run(Worker& worker) const override;

 private:
  const float* x_;
  int64_t rows_, n_;
  int64_t* indices_;
};
class SoftmaxRows : public Work {
 public:
  SoftmaxRows(const float* x, const float* max, int64_t rows, int64_t n, float* y, double* sums)  // max, sums: [rows]
      : x_(x), max_(max), rows_(rows), n_(n), y_(y), sums_(sums) {}
  void run(Worker& worker) const override;

 private:
  const float *x_, *max_;
  int64_t rows_, n_;
  float* y_;
  double* sums_;
};
class LogitBlockRows : public Work {
 public:
  LogitBlockRows(const float* x, int64_t rows, int64_t n, LogitBlock* blocks)  // blocks: [rows, ceil(n / kLogitBlock)]
      : x_(x), rows_(rows), n_(n), blocks_(blocks) {}
  void run(Worker& worker) const override;

 private:
  const float* x_;
  int64_t rows_, n_;
  LogitBlock* blocks_;
};

// Does each of `work` in turn, `repeats` times over, in one parallel region; returns the seconds that it took.
double run_all(const std::vector<std::shared_ptr<Work>>& work, int64_t repeats, ThreadPool& pool,
               const Kernels& kernels);

}  // namespace jiffy
