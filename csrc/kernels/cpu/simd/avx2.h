// The SIMD vocabulary on AVX2: products of integers without VNNI. See avx512.h for the contract.
#pragma once

#include "kernels/cpu/simd/ymm.h"

namespace jiffy::avx2 {
namespace {

inline constexpr bool kBytesBiased = false;

// The steps of sums are assembly: GCC 12 makes a tree of additions out of intrinsics and spills every product for it
// (i8: 65 % of the integer peak against 71 %, i4 in groups of 128: 86 % against 115).

// acc += maddubs(|w|, sign(a, w)), widened: 128 * 127 * 2 < 2^15 is exact, where biased codes (255 * 127 * 2) would
// saturate.
inline void add_bytes(__m256i& acc, __m256i w, __m256i a) {
  const __m256i s = _mm256_xor_si256(w, _mm256_set1_epi8(static_cast<char>(0x80)));
  asm("vpsignb %[s], %[a], %[a]\n\t"
      "vpmaddubsw %[a], %[abs], %[a]\n\t"
      "vpmaddwd %[ones], %[a], %[a]\n\t"
      "vpaddd %[a], %[acc], %[acc]"
      : [acc] "+x"(acc), [a] "+x"(a)
      : [s] "x"(s), [abs] "x"(_mm256_abs_epi8(s)), [ones] "x"(_mm256_set1_epi16(1)));
}
inline void dot_bytes(Ints& acc, Codes w, const int8_t* a) {
  add_bytes(acc.lo, w.lo, splat_bytes(a));
  add_bytes(acc.hi, w.hi, splat_bytes(a));
}

// sums[r][8 kHalf + lane] = `lines` lines of codes, less their bias, . activations: for half of a slab's outputs.
// Beside two vectors of codes and two of magnitudes registers hold the sums of four rows, and each four cost a line
// four instructions that prepare its codes; by halves all rows of a tile share them. ahead(line) asks for weights.
#define JIFFY_BYTES_BY_HALVES
template <int kRows, int kHalf, class Ahead>
inline void sum_bytes(const uint8_t* line, int lines, const int8_t* a, int64_t step, int32_t* sums, Ahead&& ahead) {
  __m256i acc[kRows];
  for (__m256i& sum : acc) sum = _mm256_setzero_si256();
  for (int i = 0; i < lines; ++i, line += 64, a += 4 * step) {
    if constexpr (kHalf == 0) ahead(line);
    const __m256i w = kHalf == 0 ? load_codes(line).lo : load_codes(line).hi;
    for (int r = 0; r < kRows; ++r) add_bytes(acc[r], w, splat_bytes(a + 4 * r));
  }
  for (int r = 0; r < kRows; ++r) _mm256_store_si256(reinterpret_cast<__m256i*>(sums + 16 * r + 8 * kHalf), acc[r]);
}

// 127 * 128 * 2 < 2^15: exact.
using FourCodes = __m256i;
inline FourCodes splat_four(const uint8_t* a) { return splat_bytes(reinterpret_cast<const int8_t*>(a)); }
inline void add_signed(__m256i& acc, __m256i w, __m256i a) {
  __m256i pairs;
  asm("vpmaddubsw %2, %3, %1\n\t"
      "vpmaddwd %4, %1, %1\n\t"
      "vpaddd %1, %0, %0"
      : "+x"(acc), "=&x"(pairs)
      : "x"(w), "x"(a), "x"(_mm256_set1_epi16(1)));
}
inline void dot_signed(Ints& acc, Codes w, FourCodes a) {
  add_signed(acc.lo, w.lo, a);
  add_signed(acc.hi, w.hi, a);
}

// int16 sums: one unit adds 8 pairs, 8 * 2 * 15 * 127 = 30480 < 2^15. The first pair of a chain is its start value.
struct NibbleSum {
  __m256i lo, hi;
};
inline NibbleSum begin_nibbles(Ints) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline void dot_nibbles(NibbleSum& s, Codes w, const int8_t* a, bool first) {
  const Word& four = *reinterpret_cast<const Word*>(a);
  __m256i a4, pairs;
  if (first) {
    asm("vpbroadcastd %3, %2\n\t"
        "vpmaddubsw %2, %4, %0\n\t"
        "vpmaddubsw %2, %5, %1"
        : "=&x"(s.lo), "=&x"(s.hi), "=&x"(a4)
        : "m"(four), "x"(w.lo), "x"(w.hi));
  } else {
    asm("vpbroadcastd %4, %2\n\t"
        "vpmaddubsw %2, %5, %3\n\t"
        "vpmaddubsw %2, %6, %2\n\t"
        "vpaddw %3, %0, %0\n\t"
        "vpaddw %2, %1, %1"
        : "+x"(s.lo), "+x"(s.hi), "=&x"(a4), "=&x"(pairs)
        : "m"(four), "x"(w.lo), "x"(w.hi));
  }
}
inline Ints end_nibbles(Ints acc, NibbleSum s) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(acc.lo, _mm256_madd_epi16(s.lo, ones)),
          _mm256_add_epi32(acc.hi, _mm256_madd_epi16(s.hi, ones))};
}

// What 8-bit weights cost without VNNI: multiply pairs, widen, add.
inline int64_t peak_int8(int64_t repeats) {
  const __m256i x = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
  repeat_chains(repeats, [&](__m256i& c) {
    __m256i pairs;
    asm volatile("vpmaddubsw %1, %1, %0" : "=x"(pairs) : "x"(x));
    asm volatile("vpmaddwd %1, %0, %0" : "+x"(pairs) : "x"(ones));
    asm volatile("vpaddd %1, %0, %0" : "+x"(c) : "x"(pairs));
  });
  return repeats * 12 * 32 * 2;
}

}  // namespace
}  // namespace jiffy::avx2
