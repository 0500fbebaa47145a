// Instructions that multiply whole matrices: Intel's AMX (Software Developer's Manual, volume 1, chapter 18). Part of
// the AVX-512 vocabulary where the assembler knows them; that the CPU does, and that the operating system has allowed
// them, says Kernels::matrix_tiles. In assembly, because GCC 12's intrinsics don't say what memory they read.
#pragma once

#include "kernels/cpu/simd/avx512.h"

namespace jiffy::avx512 {
namespace {

// Shapes the eight tile registers of this thread, and clears them: 0 to 3 are sums [rows][16] of int32 or f32, 4 and 5
// activations [rows][bytes], 6 and 7 weights [bytes / 4][16][4], which is how lines of 8-bit codes and of pairs of bf16
// lie. bytes: a multiple of 4, up to 64.
inline void shape_tiles(int rows, int bytes) {
  struct {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = static_cast<uint16_t>(i / 2 == 2 ? bytes : 64);
    config.rows[i] = static_cast<uint8_t>(i / 2 == 3 ? bytes / 4 : rows);
  }
  asm volatile("ldtilecfg %0" : : "m"(config));
}
inline void release_tiles() { asm volatile("tilerelease"); }  // so that a switch of threads needs to save nothing

template <int kTile>
inline void clear_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
template <int kTile>
inline void load_tile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0, %1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void store_tile(void* to) {  // rows of 64 bytes
  asm volatile("tilestored %%tmm%c2, (%0, %1)" : : "r"(to), "r"(int64_t{64}), "i"(kTile) : "memory");
}
// sums += activations weights^T, of int8 or of pairs of bf16
template <int kSums, int kActivations, int kWeights>
inline void add_codes() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kActivations), "i"(kWeights));
}
template <int kSums, int kActivations, int kWeights>
inline void add_biased_codes() {  // of weights that are unsigned
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kActivations), "i"(kWeights));
}
template <int kSums, int kActivations, int kWeights>
inline void add_pairs() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kActivations), "i"(kWeights));
}

// Nothing but independent products, on tiles that stay where they are (avx512.h has the other peaks).
inline int64_t peak_matrix_int8(int64_t repeats) {
  shape_tiles(16, 64);
  for (int64_t n = 0; n < repeats; ++n) {
    add_codes<0, 4, 6>();
    add_codes<1, 4, 6>();
    add_codes<2, 4, 6>();
    add_codes<3, 4, 6>();
  }
  release_tiles();
  return repeats * 4 * 16 * 16 * 64 * 2;
}
inline int64_t peak_matrix_bf16(int64_t repeats) {
  shape_tiles(16, 64);
  for (int64_t n = 0; n < repeats; ++n) {
    add_pairs<0, 4, 6>();
    add_pairs<1, 4, 6>();
    add_pairs<2, 4, 6>();
    add_pairs<3, 4, 6>();
  }
  release_tiles();
  return repeats * 4 * 16 * 16 * 32 * 2;
}

// Two lines of bytes from one of 4-bit codes, each less `bias`.
inline int8_t* store_signed_nibbles(int8_t* to, Codes line, char bias) {
  _mm512_store_si512(to, _mm512_sub_epi8(low_nibbles(line), _mm512_set1_epi8(bias)));
  _mm512_store_si512(to + 64, _mm512_sub_epi8(high_nibbles(line), _mm512_set1_epi8(bias)));
  return to + 128;
}

}  // namespace
}  // namespace jiffy::avx512
