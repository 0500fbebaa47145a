// The SIMD vocabulary on AVX2 and AVX-VNNI: products of integers by vpdpbusd on ymm, in assembly as in avx512.h, and so
// that no compiler option lets GCC use this set where it isn't asked to. See avx512.h for the contract.
#pragma once

#include "kernels/cpu/simd/ymm.h"

namespace jiffy::avxvnni {
namespace {

inline constexpr bool kBytesBiased = true;

inline void dot_codes(Ints& acc, Codes w, const int8_t* a) {
  const __m256i a4 = splat_bytes(a);
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc.lo) : "x"(w.lo), "x"(a4));
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc.hi) : "x"(w.hi), "x"(a4));
}
inline void dot_bytes(Ints& acc, Codes w, const int8_t* a) { dot_codes(acc, w, a); }

using FourCodes = __m256i;
inline FourCodes splat_four(const uint8_t* a) { return splat_bytes(reinterpret_cast<const int8_t*>(a)); }
inline void dot_signed(Ints& acc, Codes w, FourCodes a) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc.lo) : "x"(a), "x"(w.lo));
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc.hi) : "x"(a), "x"(w.hi));
}

using NibbleSum = Ints;
inline NibbleSum begin_nibbles(Ints acc) { return acc; }
inline void dot_nibbles(NibbleSum& s, Codes w, const int8_t* a, bool) { dot_codes(s, w, a); }
inline Ints end_nibbles(Ints, NibbleSum s) { return s; }

inline int64_t peak_int8(int64_t repeats) {
  const __m256i x = _mm256_set1_epi8(1);
  repeat_chains(repeats, [&](__m256i& c) { asm volatile("%{vex%} vpdpbusd %1, %1, %0" : "+x"(c) : "x"(x)); });
  return repeats * 12 * 32 * 2;
}

}  // namespace
}  // namespace jiffy::avxvnni
