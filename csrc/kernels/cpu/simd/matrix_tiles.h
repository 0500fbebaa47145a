// Instructions that multiply whole matrices: Intel's AMX (Software Developer's Manual, volume 1, chapter 18). Part of
// the AVX-512 vocabulary where the assembler knows them; that the CPU does, and that the operating system has allowed
// them, says Kernels::matrix_tiles. In assembly, because GCC 12's intrinsics don't say what memory they read.
#pragma once

#include "kernels/cpu/simd/avx512.h"

namespace jiffy::avx512 {
namespace {

// Three tile registers, of the thread that makes it and as long as it lives: sums [rows][16] of int32, rows of
// activations [rows][cols], and weights [cols / 4][16][4], which is how lines of 8-bit codes lie; cols 32 or 64.
class MatrixTiles {
 public:
  MatrixTiles(int rows, int cols) {
    struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 6; ++i) {  // 3 to 5: more sums
      config.row_bytes[i] = static_cast<uint16_t>(i == 1 ? cols : 64);
      config.rows[i] = static_cast<uint8_t>(i == 2 ? cols / 4 : rows);
    }
    asm volatile("ldtilecfg %0" : : "m"(config));
  }
  void release() const { asm volatile("tilerelease"); }  // so that a switch of threads needs to save nothing

  void clear() const { asm volatile("tilezero %tmm0"); }
  // sums += activations weights^T, both signed
  void add_product(const int8_t* activations, int64_t stride, const int8_t* weights) const {
    asm volatile(
        "tileloadd (%0, %1), %%tmm1\n\t"
        "tileloadd (%2, %3), %%tmm2\n\t"
        "tdpbssd %%tmm2, %%tmm1, %%tmm0"
        :
        : "r"(activations), "r"(stride), "r"(weights), "r"(int64_t{64})
        : "memory");
  }
  void store(int32_t* sums) const {
    asm volatile("tilestored %%tmm0, (%0, %1)" : : "r"(sums), "r"(int64_t{64}) : "memory");
  }
};

// Nothing but independent products, on tiles that stay where they are (avx512.h has the other peaks).
inline int64_t peak_matrix_int8(int64_t repeats) {
  const MatrixTiles unit(16, 64);
  for (int64_t n = 0; n < repeats; ++n) {
    asm volatile(
        "tdpbssd %tmm2, %tmm1, %tmm0\n\t"
        "tdpbssd %tmm2, %tmm1, %tmm3\n\t"
        "tdpbssd %tmm2, %tmm1, %tmm4\n\t"
        "tdpbssd %tmm2, %tmm1, %tmm5");
  }
  unit.release();
  return repeats * 4 * 16 * 16 * 64 * 2;
}

// A line of 8-bit codes, without their bias of 128.
inline int8_t* store_signed_bytes(int8_t* to, Codes line) {
  _mm512_store_si512(to, _mm512_xor_si512(line, _mm512_set1_epi8(static_cast<char>(0x80))));
  return to + 64;
}
// Two lines of bytes from one of 4-bit codes, each less `bias`.
inline int8_t* store_signed_nibbles(int8_t* to, Codes line, char bias) {
  _mm512_store_si512(to, _mm512_sub_epi8(low_nibbles(line), _mm512_set1_epi8(bias)));
  _mm512_store_si512(to + 64, _mm512_sub_epi8(high_nibbles(line), _mm512_set1_epi8(bias)));
  return to + 128;
}

}  // namespace
}  // namespace jiffy::avx512
