// The SIMD vocabulary of the sets with 256-bit registers, for AVX2, FMA and F16C: 16 f32 lanes in two ymm. What such a
// set multiplies integers with stands in its own header. See avx512.h for the contract.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace jiffy::JIFFY_ISA {
namespace {

struct Floats {
  __m256 lo, hi;
};
struct Ints {
  __m256i lo, hi;
};
using Codes = Ints;  // one 64-byte line of unsigned codes

inline Floats zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Floats splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Floats v) {
  _mm256_storeu_ps(p, v.lo);
  _mm256_storeu_ps(p + 8, v.hi);
}
inline Ints first_lanes(int n) {
  const __m256i count = _mm256_set1_epi32(n);
  return {_mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
          _mm256_cmpgt_epi32(count, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}
inline Floats load_first(const float* p, int n) {
  const Ints m = first_lanes(n);
  return {_mm256_maskload_ps(p, m.lo), _mm256_maskload_ps(p + 8, m.hi)};
}
inline void store_first(float* p, Floats v, int n) {
  const Ints m = first_lanes(n);
  _mm256_maskstore_ps(p, m.lo, v.lo);
  _mm256_maskstore_ps(p + 8, m.hi, v.hi);
}
inline Floats keep_first(Floats v, int n, Floats rest) {
  const Ints m = first_lanes(n);
  return {_mm256_blendv_ps(rest.lo, v.lo, _mm256_castsi256_ps(m.lo)),
          _mm256_blendv_ps(rest.hi, v.hi, _mm256_castsi256_ps(m.hi))};
}
inline Floats load_f16(const uint8_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16)))};
}
inline __m256 load_bf16_half(const uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline Floats load_bf16(const uint16_t* p) { return {load_bf16_half(p), load_bf16_half(p + 8)}; }
inline __m256i bf16_half(__m256 v) {
  const __m256i b = _mm256_castps_si256(v), high = _mm256_srli_epi32(b, 16);
  const __m256i half = _mm256_add_epi32(_mm256_set1_epi32(0x7fff), _mm256_and_si256(high, _mm256_set1_epi32(1)));
  const __m256i nearest = _mm256_srli_epi32(_mm256_add_epi32(b, half), 16);
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(nearest, _mm256_or_si256(high, _mm256_set1_epi32(0x40)), is_nan);
}
inline void store_bf16(uint16_t* p, Floats v) {
  const __m256i words = _mm256_packus_epi32(bf16_half(v.lo), bf16_half(v.hi));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(words, 0b11011000));
}
inline __m256 nearest_bf16_half(__m256 v) { return _mm256_castsi256_ps(_mm256_slli_epi32(bf16_half(v), 16)); }
inline Floats nearest_bf16(Floats v) { return {nearest_bf16_half(v.lo), nearest_bf16_half(v.hi)}; }

inline __m256 round_to_bf16_half(__m256 v) {
  const __m256i half = _mm256_add_epi32(_mm256_castps_si256(v), _mm256_set1_epi32(0x8000));
  return _mm256_castsi256_ps(_mm256_and_si256(half, _mm256_set1_epi32(static_cast<int32_t>(0xffff0000))));
}
inline Floats round_to_bf16(Floats v) { return {round_to_bf16_half(v.lo), round_to_bf16_half(v.hi)}; }
inline void store_pairs_half(uint16_t* p, __m256 low, __m256 high) {
  const __m256i shifted = _mm256_srli_epi32(_mm256_castps_si256(low), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_or_si256(shifted, _mm256_castps_si256(high)));
}
inline void store_pairs(uint16_t* p, Floats low, Floats high) {
  store_pairs_half(p, low.lo, high.lo);
  store_pairs_half(p + 16, low.hi, high.hi);
}

inline Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline Floats sub(Floats a, Floats b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline Floats mul(Floats a, Floats b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline Floats div(Floats a, Floats b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline Floats fma(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }

inline Ints splat(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline Ints max(Ints a, Ints b) { return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }
inline Ints min(Ints a, Ints b) { return {_mm256_min_epi32(a.lo, b.lo), _mm256_min_epi32(a.hi, b.hi)}; }
template <int kBits>
inline Ints shift_left(Ints a) {
  return {_mm256_slli_epi32(a.lo, kBits), _mm256_slli_epi32(a.hi, kBits)};
}
inline Ints round_to_ints(Floats v) { return {_mm256_cvtps_epi32(v.lo), _mm256_cvtps_epi32(v.hi)}; }
inline Floats to_floats(Ints v) { return {_mm256_cvtepi32_ps(v.lo), _mm256_cvtepi32_ps(v.hi)}; }
inline Ints bits(Floats v) { return {_mm256_castps_si256(v.lo), _mm256_castps_si256(v.hi)}; }
inline Floats from_bits(Ints v) { return {_mm256_castsi256_ps(v.lo), _mm256_castsi256_ps(v.hi)}; }
inline Ints abs_bits(Floats v) {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  const Ints b = bits(v);
  return {_mm256_and_si256(b.lo, mask), _mm256_and_si256(b.hi, mask)};
}
inline void store_low_bytes(int8_t* p, Ints v) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.lo, v.hi), 0b11011000);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

inline __m256i pack_codes_half(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
  return _mm256_max_epi8(bytes, _mm256_set1_epi8(-127));
}
inline Codes pack_codes(Ints a, Ints b, Ints c, Ints d) {
  return {pack_codes_half(a.lo, b.lo, c.lo, d.lo), pack_codes_half(a.hi, b.hi, c.hi, d.hi)};
}
inline Codes pack_bf16(Floats a, Floats b) {
  return {_mm256_packus_epi32(bf16_half(a.lo), bf16_half(b.lo)), _mm256_packus_epi32(bf16_half(a.hi), bf16_half(b.hi))};
}
inline void transpose_dwords_half(__m256i& a, __m256i& b, __m256i& c, __m256i& d) {
  const __m256i low_ab = _mm256_unpacklo_epi32(a, b), high_ab = _mm256_unpackhi_epi32(a, b);
  const __m256i low_cd = _mm256_unpacklo_epi32(c, d), high_cd = _mm256_unpackhi_epi32(c, d);
  a = _mm256_unpacklo_epi64(low_ab, low_cd), b = _mm256_unpackhi_epi64(low_ab, low_cd);
  c = _mm256_unpacklo_epi64(high_ab, high_cd), d = _mm256_unpackhi_epi64(high_ab, high_cd);
}
inline void transpose_dwords(Codes (&row)[4]) {
  transpose_dwords_half(row[0].lo, row[1].lo, row[2].lo, row[3].lo);
  transpose_dwords_half(row[0].hi, row[1].hi, row[2].hi, row[3].hi);
}
inline void store_quarters(int8_t* p, int64_t step, Codes c) {
  const auto to = [=](int64_t i) { return reinterpret_cast<__m128i*>(p + i * step); };
  _mm_storeu_si128(to(0), _mm256_castsi256_si128(c.lo));
  _mm_storeu_si128(to(1), _mm256_extracti128_si256(c.lo, 1));
  _mm_storeu_si128(to(2), _mm256_castsi256_si128(c.hi));
  _mm_storeu_si128(to(3), _mm256_extracti128_si256(c.hi, 1));
}
inline __m256i add_four_bytes_half(__m256i sum, __m256i c) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), c);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline Ints add_four_bytes(Ints sum, Codes c) {
  return {add_four_bytes_half(sum.lo, c.lo), add_four_bytes_half(sum.hi, c.hi)};
}
inline void store_sum_of_quarters(int32_t* to, Ints v) {
  const __m256i a = _mm256_add_epi32(v.lo, v.hi);
  const __m128i b = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), b);
}

inline float sum(Floats v) {
  const __m256 a = _mm256_add_ps(v.lo, v.hi);
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
inline float max_lane(Floats v) {
  const __m256 a = _mm256_max_ps(v.lo, v.hi);
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}
inline int32_t max_lane(Ints v) {
  const __m256i a = _mm256_max_epi32(v.lo, v.hi);
  const __m128i b = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  const __m128i c = _mm_max_epi32(b, _mm_shuffle_epi32(b, 0b1110));
  return _mm_cvtsi128_si32(_mm_max_epi32(c, _mm_shuffle_epi32(c, 1)));
}
inline int32_t sum(Ints v) {
  const __m256i a = _mm256_add_epi32(v.lo, v.hi);
  const __m128i b = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  const __m128i c = _mm_add_epi32(b, _mm_shuffle_epi32(b, 0b1110));
  return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 1)));
}

inline Codes load_codes(const uint8_t* p) {
  const __m256i* q = reinterpret_cast<const __m256i*>(p);
  return {_mm256_load_si256(q), _mm256_load_si256(q + 1)};
}
inline Codes low_nibbles(Codes c) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(c.lo, mask), _mm256_and_si256(c.hi, mask)};
}
inline Codes high_nibbles(Codes c) { return low_nibbles({_mm256_srli_epi16(c.lo, 4), _mm256_srli_epi16(c.hi, 4)}); }

// Sums of six rows leave four of 16 registers for weights, activations and products.
inline constexpr int kRowsAtOnce = 6, kRowsBesideCodes = 4;

typedef int32_t __attribute__((may_alias)) Word;
inline __m256i splat_bytes(const int8_t* a) { return _mm256_set1_epi32(*reinterpret_cast<const Word*>(a)); }

inline Floats low_of_pairs(Codes w) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(w.lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(w.hi, 16))};
}
inline Floats high_of_pairs(Codes w) {
  const __m256i mask = _mm256_set1_epi32(static_cast<int32_t>(0xffff0000));
  return {_mm256_castsi256_ps(_mm256_and_si256(w.lo, mask)), _mm256_castsi256_ps(_mm256_and_si256(w.hi, mask))};
}
// acc[lane] += w[lane] * pair[0], and * pair[1]. In assembly, because GCC 12 else gathers what several rows need before
// the first product, and spills.
inline void add_low(Floats& acc, Floats w, const int8_t* pair) {
  __m256 x;
  asm("vpbroadcastd %3, %2\n\t"
      "vpslld $16, %2, %2\n\t"
      "vfmadd231ps %2, %4, %0\n\t"
      "vfmadd231ps %2, %5, %1"
      : "+x"(acc.lo), "+x"(acc.hi), "=&x"(x)
      : "m"(*reinterpret_cast<const Word*>(pair)), "x"(w.lo), "x"(w.hi));
}
inline void add_high(Floats& acc, Floats w, const int8_t* pair) {
  __m256 x;
  asm("vpbroadcastd %3, %2\n\t"
      "vpand %6, %2, %2\n\t"
      "vfmadd231ps %2, %4, %0\n\t"
      "vfmadd231ps %2, %5, %1"
      : "+x"(acc.lo), "+x"(acc.hi), "=&x"(x)
      : "m"(*reinterpret_cast<const Word*>(pair)), "x"(w.lo), "x"(w.hi),
        "x"(_mm256_set1_epi32(static_cast<int32_t>(0xffff0000))));
}

// The busiest loops there are: 12 independent chains hide the latency of every instruction.
template <class Step>
inline void repeat_chains(int64_t repeats, Step&& step) {
  __m256i c0 = _mm256_setzero_si256(), c1 = c0, c2 = c0, c3 = c0, c4 = c0, c5 = c0, c6 = c0, c7 = c0, c8 = c0, c9 = c0,
          c10 = c0, c11 = c0;
  for (int64_t n = 0; n < repeats; ++n) {
    step(c0), step(c1), step(c2), step(c3), step(c4), step(c5);
    step(c6), step(c7), step(c8), step(c9), step(c10), step(c11);
  }
}
inline int64_t peak_bf16(int64_t) { return 0; }
inline int64_t peak_f32(int64_t repeats) {
  const __m256i x = _mm256_setzero_si256();
  repeat_chains(repeats, [&](__m256i& c) { asm volatile("vfmadd231ps %1, %1, %0" : "+x"(c) : "x"(x)); });
  return repeats * 12 * 8 * 2;
}

}  // namespace
}  // namespace jiffy::JIFFY_ISA
