// matmul: y_i = finish(x w_i^T (+ bias_i)) (+ residual) for all weights that share x, as one piece of work
//   to candidates: each run of rows by a weight and a bias of its own
// gate_up: y = silu(x gate^T) * (x up^T)
#include "ops/op.h"

namespace jiffy {
namespace {

void check_activations(const Check& c, const PackedMatrix& w) {
  const RowFormat rows = activation_format(w.format);
  c.that(c.input(0).format == rows, rows.name() + " rows for " + w.format.name(), c.input(0).format.name());
}

void check_result(const Check& c, size_t output, const Parameter& weight) {
  c.that(c.output(output).width == weight.matrix.rows,
         weight.name + ": " + std::to_string(weight.matrix.rows) + " outputs", std::to_string(c.output(output).width));
  c.is_float(c.output(output), c.output(output).width);
  c.same_space(c.input(0), c.output(output));
}

MatmulArgs prepare(const Call& c, const Worker& w, const PackedMatrix& weight, const Operand& y) {
  const Operand& x = c.input(0);
  MatmulArgs args;
  args.weight = weight;
  args.rows = x.rows;
  args.y = y.floats();
  args.y_stride = y.type.width;
  args.native_pairs = w.kernels.native_pairs;
  args.far_prefetch = w.kernels.far_prefetch;
  if (x.type.format.quantized()) {
    args.x = x.quantized();
    args.scratch = w.scratch;
  } else {
    args.x_f32 = x.floats();
  }
  return args;
}

// About eight pieces a lane: enough to even out a delayed lane, few enough to keep each piece one long stream; of an
// even number, since kernels may take two slabs together.
int64_t slabs_at_a_time(int64_t slabs, int lanes) {
  const int64_t piece = slabs / (int64_t{8} * lanes);
  return lanes == 1 ? slabs : piece < 2 ? 1 : piece / 2 * 2;
}

// Of the slabs [begin, end) of several matrices one behind the other, those of the one whose slabs begin at `first`.
bool take_slabs(MatmulArgs& args, int64_t begin, int64_t end, int64_t first) {
  const int64_t last = first + n_slabs(args.weight.rows);
  args.begin = (begin > first ? begin : first) - first;
  args.end = (end < last ? end : last) - first;
  return args.begin < args.end;
}

// What args say of all rows, for those of a run alone. Quantised rows lie in tiles with others: they are copied, so few
// at a time that no kernel needs the scratch memory for itself.
void multiply_run(const MatmulArgs& args, const CandidateRun& run, const RowFormat& format, Worker& w) {
  if (run.begin == 0 && run.end == args.rows) return w.kernels.matmul(args);
  for (int64_t row = run.begin; row < run.end; row += kMaxTileRows) {
    MatmulArgs some = args;
    some.rows = run.end - row < kMaxTileRows ? run.end - row : kMaxTileRows;
    some.y += row * args.y_stride;
    if (format.quantized()) {
      const bool wide = w.kernels.wants_wide_runs(format, some.rows);
      some.x = activation_view(w.scratch, some.rows, args.weight.cols, format, wide);
      copy_rows(args.x, row, some.x);
    } else {
      some.x_f32 += row * args.weight.cols;
    }
    w.kernels.matmul(some);
  }
}

void run_candidates(const Call& c, Worker& w) {
  const Operand& y = c.output(0);
  int64_t slabs = 0;
  for (const CandidateRun& run : y.candidates) slabs += n_slabs(c.weight_of(run).rows);
  w.share(slabs, slabs_at_a_time(slabs, w.lane.count()), [&](int64_t begin, int64_t end) {
    int64_t first = 0;
    for (const CandidateRun& run : y.candidates) {
      MatmulArgs args = prepare(c, w, c.weight_of(run), y);
      args.bias = c.bias_of(run);
      args.finish = c.at.attributes.finish;
      if (take_slabs(args, begin, end, first)) multiply_run(args, run, c.input(0).type.format, w);
      first += n_slabs(args.weight.rows);
    }
  });
}

// The outputs of the blocks of logits [begin, end) alone.
PackedMatrix matrix_of_blocks(const PackedMatrix& all, int64_t begin, int64_t end) {
  PackedMatrix some = all;
  some.data = all.slab(begin * kLogitBlock / kSlabRows);
  some.rows = (end * kLogitBlock < all.rows ? end * kLogitBlock : all.rows) - begin * kLogitBlock;
  return some;
}

// Multiplies blocks of the logits of a run of rows into the lane's tile, and keeps what is wanted of them.
void keep_blocks(const Call& c, Worker& w, const CandidateRun& run, int64_t begin, int64_t end) {
  const Operand& y = c.output(0);
  const LogitKeeper& keeper = *y.keeper;
  MatmulArgs args = prepare(c, w, matrix_of_blocks(c.weight_of(run), begin, end), y);
  args.y_stride = keeper.tile_stride();
  args.y = keeper.tiles + w.lane.id() * y.rows * args.y_stride;
  if (const float* const bias = c.bias_of(run)) args.bias = bias + begin * kLogitBlock;
  args.finish = c.at.attributes.finish;
  args.end = n_slabs(args.weight.rows);
  multiply_run(args, run, c.input(0).type.format, w);
  for (int64_t row = run.begin; row < run.end; ++row) {
    const float* const logits = args.y + row * args.y_stride;
    LogitBlock* const found = keeper.blocks + row * keeper.n_blocks + begin;
    w.kernels.logit_blocks({logits, args.weight.rows, found, keeper.sums});
    LargestLogits largest(keeper.largest + (w.lane.id() * y.rows + row) * keeper.most, keeper.most);
    for (int64_t at = 0; at < args.weight.rows; at += kLogitBlock) {
      const int64_t left = args.weight.rows - at, n = left < kLogitBlock ? left : kLogitBlock;
      largest.take(logits + at, n, found[at / kLogitBlock], begin * kLogitBlock + at);
    }
  }
}

// Lanes take blocks in ascending order, so that each sees logits in the order of their places.
void keep_logits(const Call& c, Worker& w) {
  const Operand& y = c.output(0);
  const CandidateRun all{0, y.rows, {}, nullptr};
  const std::span<const CandidateRun> runs = y.candidates.empty() ? std::span(&all, 1) : y.candidates;
  int64_t blocks = 0;
  for (const CandidateRun& run : runs) blocks += n_logit_blocks(c.weight_of(run).rows);
  const int64_t piece = blocks / (int64_t{16} * w.lane.count());
  w.share(blocks, piece < 1 ? 1 : piece, [&](int64_t begin, int64_t end) {
    for (const CandidateRun& run : runs) {
      const int64_t n = n_logit_blocks(c.weight_of(run).rows);
      for (int64_t i = begin > 0 ? begin : 0, last = end < n ? end : n; i < last; i += y.keeper->at_once) {
        keep_blocks(c, w, run, i, i + y.keeper->at_once < last ? i + y.keeper->at_once : last);
      }
      begin -= n;
      end -= n;
    }
  });
}

}  // namespace

void check_matmul(const Check& c) {
  const size_t n = c.at.outputs.size();
  c.that(n > 0, "at least one output", "none");
  const bool residual = c.at.inputs.size() == 2;
  c.counts(residual ? 2 : 1, n, 2 * n);
  for (size_t i = 0; i < n; ++i) {
    c.is_matrix(2 * i, c.input(0).width);
    check_activations(c, c.parameter(2 * i).matrix);
    check_result(c, i, c.parameter(2 * i));
    if (c.has_parameter(2 * i + 1)) c.is_floats(2 * i + 1, 1, c.output(i).width);
  }
  if (residual) {
    c.that(n == 1, "one output beside a residual", std::to_string(n));
    c.is_float(c.input(1), c.output(0).width);
    c.same_space(c.input(1), c.output(0));
  }
}

void run_matmul(const Call& c, Worker& w) {
  if (c.output(0).keeper != nullptr) return keep_logits(c, w);
  if (!c.output(0).candidates.empty()) return run_candidates(c, w);
  const size_t n = c.at.outputs.size();
  int64_t slabs = 0;
  for (size_t i = 0; i < n; ++i) slabs += n_slabs(c.output(i).type.width);
  w.share(slabs, slabs_at_a_time(slabs, w.lane.count()), [&](int64_t begin, int64_t end) {
    int64_t first = 0;  // of weight i among all slabs
    for (size_t i = 0; i < n; ++i) {
      MatmulArgs args = prepare(c, w, c.parameter(2 * i).matrix, c.output(i));
      if (c.has_parameter(2 * i + 1)) args.bias = c.parameter(2 * i + 1).floats;
      args.finish = c.at.attributes.finish;
      if (c.at.inputs.size() == 2) args.residual = c.input(1).floats();
      if (take_slabs(args, begin, end, first)) w.kernels.matmul(args);
      first += n_slabs(args.weight.rows);
    }
  });
}

void check_gate_up(const Check& c) {
  c.counts(1, 1, 2);
  for (size_t i = 0; i < 2; ++i) {
    c.is_matrix(i, c.input(0).width);
    check_activations(c, c.parameter(i).matrix);
    check_result(c, 0, c.parameter(i));
  }
  c.that(c.parameter(0).matrix.format == c.parameter(1).matrix.format, "gate and up in one format",
         c.parameter(0).matrix.format.name() + " and " + c.parameter(1).matrix.format.name());
}

void run_gate_up(const Call& c, Worker& w) {
  MatmulArgs args = prepare(c, w, c.parameter(0).matrix, c.output(0));
  args.up = c.parameter(1).matrix;
  const int64_t slabs = n_slabs(c.output(0).type.width);
  w.share(slabs, slabs_at_a_time(slabs, w.lane.count()), [&](int64_t begin, int64_t end) {
    args.begin = begin;
    args.end = end;
    w.kernels.matmul(args);
  });
}

}  // namespace jiffy
