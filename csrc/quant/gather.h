// Rows of a packed matrix by number, and matrices made of some of them.
#pragma once

#include "base/buffer.h"
#include "base/thread_pool.h"
#include "quant/format.h"

namespace jiffy {

// A copy of a matrix in which each row lies in one piece: in a slab it shares each line with 15 others, so that reading
// it takes 16 times its bytes.
class RowsOfMatrix {
 public:
  // Throws kOutOfMemory.
  RowsOfMatrix(const PackedMatrix& matrix, ThreadPool& pool);

  // Writes the slab `slab` of the matrix whose row i is row rows[i] of this one, in its format, to `to` [slab_bytes]:
  // scales and codes bit for bit, lanes behind the last row zero. rows [n_rows].
  void gather_slab(const int32_t* rows, int64_t n_rows, int64_t slab, uint8_t* to) const;

  int64_t n_rows() const { return n_rows_; }
  int64_t cols() const { return cols_; }
  const WeightFormat& format() const { return format_; }
  int64_t bytes_of_slab() const { return slab_bytes(format_, cols_); }

 private:
  const uint8_t* row(int64_t i) const { return memory_.as<uint8_t>() + i * row_bytes(); }
  int64_t row_bytes() const { return bytes_of_slab() / kSlabRows; }

  const int64_t n_rows_, cols_;
  const WeightFormat format_;
  Buffer memory_;  // [n_rows, row_bytes]
};

}  // namespace jiffy
