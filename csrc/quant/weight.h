// A packed weight matrix that owns its memory, filled row by row from a file.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/arena.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "quant/format.h"
#include "quant/source.h"

namespace jiffy {

class Weight {
 public:
  // An unfilled matrix [rows, cols] in memory of `arena`, or of its own. Throws kParameter for sizes out of
  // 1..2^31 - 1, kOutOfMemory.
  static std::shared_ptr<Weight> create(const std::string& name, int64_t rows, int64_t cols, const WeightFormat& format,
                                        Arena* arena = nullptr);

  // Two matrices of one shape and format whose slabs alternate in one buffer, so that a kernel which needs both reads
  // one stream (gate and up: two streams a thread cost 15 to 20 % of the bandwidth).
  static std::pair<std::shared_ptr<Weight>, std::shared_ptr<Weight>> create_pair(const std::string& first,
                                                                                 const std::string& second,
                                                                                 int64_t rows, int64_t cols,
                                                                                 const WeightFormat& format,
                                                                                 Arena* arena = nullptr);

  // A packed matrix in memory that `owner` keeps.
  static std::shared_ptr<Weight> view(const std::string& name, const PackedMatrix& matrix,
                                      std::shared_ptr<const void> owner);

  // Packs the rows [begin, begin + n_rows) from `source`, [n_rows, source_row_bytes]; begin is a multiple of 16.
  // A block-quantised source whose groups are the format's own is taken over without loss; any other is decoded and
  // quantised. Throws kFormat naming the tensor and the row for weights that are NaN or infinite, or become so in bf16,
  // kParameter for rows out of range.
  void pack_rows(int64_t begin, int64_t n_rows, const uint8_t* source, SourceType type, ThreadPool& pool);

  // The same from a file, in which row `begin` lies at `offset`: each thread reads what it packs. Throws kFormat for a
  // file that can't be read or ends earlier, too.
  void pack_file(int64_t begin, int64_t n_rows, const File& file, int64_t offset, SourceType type, ThreadPool& pool);

  // Whether f16 headers hold scales and offsets of what has been packed: none overflows, and the scale of the largest
  // group keeps all its digits (a group far below it loses nothing that counts).
  bool fits_f16_headers() const;

  const std::string& name() const { return name_; }
  const PackedMatrix& matrix() const { return matrix_; }
  int64_t bytes() const { return n_slabs(matrix_.rows) * slab_bytes(matrix_.format, matrix_.cols); }

 private:
  Weight(std::string name, std::shared_ptr<const void> owner, PackedMatrix matrix)
      : name_(std::move(name)), owner_(std::move(owner)), matrix_(matrix) {}

  // Where the rows [row, row + n) of a source lie for a lane, counted from the first to be packed; null ends it all.
  using Rows = std::function<const uint8_t*(int lane, int64_t row, int64_t n)>;

  // Returns whether all rows were there.
  bool pack(int64_t begin, int64_t n_rows, SourceType type, ThreadPool& pool, const Rows& rows);

  std::string name_;
  std::shared_ptr<const void> owner_;  // of the memory; the two of a pair share it
  PackedMatrix matrix_;
  float largest_ = 0.0f;  // |weight|, of those that were quantised here
};

// The format that holds a source without loss: q4_0 -> i4, q4_1 -> i4a, q8_0 -> i8g32; bf16 itself; f32 for f32 and
// f16.
WeightFormat natural_format(SourceType type);

}  // namespace jiffy
