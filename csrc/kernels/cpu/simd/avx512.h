// The SIMD vocabulary on AVX-512 (F, BW, DQ, VL, VNNI): 16 f32 lanes in one zmm.
//
// Every set defines the same names with the same bits. All of it has internal linkage: a shared inline function could
// be kept by the linker in its AVX-512 form and run on a CPU without AVX-512.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace jiffy::avx512 {
namespace {

using Floats = __m512;
using Ints = __m512i;
using Codes = __m512i;  // one 64-byte line of unsigned codes

inline Floats zeros() { return _mm512_setzero_ps(); }
inline Floats splat(float x) { return _mm512_set1_ps(x); }
inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>(_bzhi_u32(0xffff, static_cast<unsigned>(n))); }
inline Floats load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline void store_first(float* p, Floats v, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
inline Floats keep_first(Floats v, int n, Floats rest) { return _mm512_mask_blend_ps(first_lanes(n), rest, v); }
inline Floats load_f16(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Floats load_bf16(const uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline __m512i bf16_words(Floats v) {  // in the low halves of lanes; to nearest even; a NaN stays one, quiet
  const __m512i b = _mm512_castps_si512(v), high = _mm512_srli_epi32(b, 16);
  const __m512i half = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), _mm512_and_si512(high, _mm512_set1_epi32(1)));
  const __m512i nearest = _mm512_srli_epi32(_mm512_add_epi32(b, half), 16);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(nearest, is_nan, high, _mm512_set1_epi32(0x40));
}
inline void store_bf16(uint16_t* p, Floats v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(bf16_words(v)));
}
inline Floats nearest_bf16(Floats v) { return _mm512_castsi512_ps(_mm512_slli_epi32(bf16_words(v), 16)); }

// To the nearest bf16, halves away from zero; finite values only.
inline Floats round_to_bf16(Floats v) {
  const __m512i half = _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x8000));
  return _mm512_castsi512_ps(_mm512_and_si512(half, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000))));
}
// [lane][low, high] of values that bf16 holds
inline void store_pairs(uint16_t* p, Floats low, Floats high) {
  const __m512i shifted = _mm512_srli_epi32(_mm512_castps_si512(low), 16);
  _mm512_storeu_si512(p, _mm512_or_si512(shifted, _mm512_castps_si512(high)));
}

inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }  // the second where either is NaN
inline Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }

inline Ints splat(int32_t x) { return _mm512_set1_epi32(x); }
inline Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Ints max(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
inline Ints min(Ints a, Ints b) { return _mm512_min_epi32(a, b); }
template <int kBits>
inline Ints shift_left(Ints a) {
  return _mm512_slli_epi32(a, kBits);
}
inline Ints round_to_ints(Floats v) { return _mm512_cvtps_epi32(v); }  // ties to even
inline Floats to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }
inline Ints bits(Floats v) { return _mm512_castps_si512(v); }
inline Floats from_bits(Ints v) { return _mm512_castsi512_ps(v); }
inline Ints abs_bits(Floats v) { return _mm512_and_si512(bits(v), _mm512_set1_epi32(0x7fffffff)); }
inline void store_low_bytes(int8_t* p, Ints v) {  // 16 bytes; lanes are within int8
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
}

// What is stored for four rows at once goes through lines of four quarters, each the four dwords of four lanes. Quarter
// q of a line has the lanes 4q to 4q + 3: of a as bytes within +-127, then those of b, of c, of d; or of a as bf16,
// then those of b.
inline Codes pack_codes(Ints a, Ints b, Ints c, Ints d) {
  const __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
  return _mm512_max_epi8(bytes, _mm512_set1_epi8(-127));
}
inline Codes pack_bf16(Floats a, Floats b) { return _mm512_packus_epi32(bf16_words(a), bf16_words(b)); }
// row[i] = in each quarter the dwords i of all rows
inline void transpose_dwords(Codes (&row)[4]) {
  const __m512i low01 = _mm512_unpacklo_epi32(row[0], row[1]), high01 = _mm512_unpackhi_epi32(row[0], row[1]);
  const __m512i low23 = _mm512_unpacklo_epi32(row[2], row[3]), high23 = _mm512_unpackhi_epi32(row[2], row[3]);
  row[0] = _mm512_unpacklo_epi64(low01, low23), row[1] = _mm512_unpackhi_epi64(low01, low23);
  row[2] = _mm512_unpacklo_epi64(high01, high23), row[3] = _mm512_unpackhi_epi64(high01, high23);
}
inline void store_quarters(int8_t* p, int64_t step, Codes c) {
  const auto to = [=](int64_t i) { return reinterpret_cast<__m128i*>(p + i * step); };
  _mm_storeu_si128(to(0), _mm512_castsi512_si128(c));
  _mm_storeu_si128(to(1), _mm512_extracti32x4_epi32(c, 1));
  _mm_storeu_si128(to(2), _mm512_extracti32x4_epi32(c, 2));
  _mm_storeu_si128(to(3), _mm512_extracti32x4_epi32(c, 3));
}
// sum[lane] += the lane's four signed bytes
inline Ints add_four_bytes(Ints sum, Codes c) { return _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), c); }
// to[i] = the sum of the lanes i of all quarters
inline void store_sum_of_quarters(int32_t* to, Ints v) {
  const __m256i a = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
  const __m128i b = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), b);
}

// The one reduction tree of all sets: halves, quarters, eighths, pairs.
inline float sum(Floats v) {
  const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
inline float max_lane(Floats v) { return _mm512_reduce_max_ps(v); }  // no NaN among the lanes
inline int32_t max_lane(Ints v) { return _mm512_reduce_max_epi32(v); }
inline int32_t sum(Ints v) { return _mm512_reduce_add_epi32(v); }

inline Codes load_codes(const uint8_t* p) { return _mm512_load_si512(p); }
inline Codes low_nibbles(Codes c) { return _mm512_and_si512(c, _mm512_set1_epi8(15)); }
inline Codes high_nibbles(Codes c) { return _mm512_and_si512(_mm512_srli_epi16(c, 4), _mm512_set1_epi8(15)); }

// Rows of activations whose sums one pass over a slab keeps in registers, and beside how many a line's codes stay
// there.
inline constexpr int kRowsAtOnce = 12, kRowsBesideCodes = 12;
// What dot_bytes() adds too much per unit of activation, in units of 128.
inline constexpr bool kBytesBiased = true;

// Four bytes of a row for products with several lines. Volatile, because GCC 12 else gathers all broadcasts before the
// first product, and spills.
using FourCodes = Ints;
typedef int32_t __attribute__((may_alias)) Word;
inline FourCodes splat_four(const uint8_t* a) {
  Ints four;
  asm volatile("vpbroadcastd %1, %0" : "=v"(four) : "m"(*reinterpret_cast<const Word*>(a)));
  return four;
}

// acc[lane] += sum over 4 of code[lane][i] * a[i].
// Inline asm, because GCC 12 spills the accumulators around the intrinsic: 53 % of the integer peak against 99 %.
inline void dot_codes(Ints& acc, Codes w, const int8_t* a) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*reinterpret_cast<const Word*>(a)));
}
inline void dot_codes(Ints& acc, Codes w, FourCodes a) {
  asm volatile("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(a));
}
template <class Four>
inline void dot_bytes(Ints& acc, Codes w, Four a) {
  dot_codes(acc, w, a);
}

// acc[lane] += sum over 4 of w[lane][i] * a[i], w signed and a in 0..127.
inline void dot_signed(Ints& acc, Codes w, FourCodes a) { dot_codes(acc, a, w); }

// A running sum over one unit of 4-bit codes; on sets without VNNI it is narrower than Ints, and starts with its first
// product (the last argument of dot_nibbles).
using NibbleSum = Ints;
inline NibbleSum begin_nibbles(Ints acc) { return acc; }
template <class Four>
inline void dot_nibbles(NibbleSum& s, Codes w, Four a, bool) {
  dot_codes(s, w, a);
}
inline Ints end_nibbles(Ints, NibbleSum s) { return s; }

// A pair of bf16 to two f32.
inline Floats low_of_pairs(Ints v) { return from_bits(shift_left<16>(v)); }
inline Floats high_of_pairs(Ints v) {
  return from_bits(_mm512_and_si512(v, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000))));
}
// acc[lane] += w[lane] * pair[0], and * pair[1]
inline void add_low(Floats& acc, Floats w, FourCodes pair) { acc = fma(w, low_of_pairs(pair), acc); }
inline void add_high(Floats& acc, Floats w, FourCodes pair) { acc = fma(w, high_of_pairs(pair), acc); }

// acc[lane] += w[lane][1] * a[1], then += w[lane][0] * a[0], pairs of bf16, by an instruction which not every CPU with
// this set has (Kernels::native_pairs); inline asm for the reason that dot_codes has. It is two fused multiply-adds in
// that order, each rounded to nearest even (so says Intel's manual, and a Zen 4 agreed on 32 million random lanes), but
// for denormal numbers, which it takes and gives as zero whatever the control register says.
#define JIFFY_NATIVE_PAIRS
inline void dot_pairs(Floats& acc, Codes w, const int8_t* a) {
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*reinterpret_cast<const Word*>(a)));
}
inline void dot_pairs(Floats& acc, Codes w, FourCodes a) {
  asm volatile("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(w), "v"(a));
}

// The busiest loops there are: kChains independent chains hide the latency of every instruction. (With 12 of them a Zen
// 5's vdpbf16ps, which takes six cycles, falls 8 % short.)
inline constexpr int kChains = 20;
template <class Step>
inline void repeat_chains(int64_t repeats, Step&& step) {
  Ints chain[kChains];
  for (Ints& c : chain) c = splat(0);
  for (int64_t n = 0; n < repeats; ++n) {
#pragma GCC unroll 20
    for (Ints& c : chain) step(c);
  }
}
inline int64_t peak_int8(int64_t repeats) {
  const Ints x = splat(0x01010101);
  repeat_chains(repeats, [&](Ints& c) { asm volatile("vpdpbusd %1, %1, %0" : "+v"(c) : "v"(x)); });
  return repeats * kChains * 64 * 2;
}
inline int64_t peak_bf16(int64_t repeats) {
  if (!__builtin_cpu_supports("avx512bf16")) return 0;
  const Ints x = splat(int32_t{0});
  repeat_chains(repeats, [&](Ints& c) { asm volatile("vdpbf16ps %1, %1, %0" : "+v"(c) : "v"(x)); });
  return repeats * kChains * 32 * 2;
}
inline int64_t peak_f32(int64_t repeats) {
  const Ints x = splat(int32_t{0});
  repeat_chains(repeats, [&](Ints& c) { asm volatile("vfmadd231ps %1, %1, %0" : "+v"(c) : "v"(x)); });
  return repeats * kChains * 16 * 2;
}

}  // namespace
}  // namespace jiffy::avx512
