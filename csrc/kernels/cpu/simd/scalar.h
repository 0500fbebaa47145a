// The SIMD vocabulary in plain C++: 16 f32 lanes in an array. The reference of every other set; see avx512.h for the
// contract.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/dtype.h"

namespace jiffy::scalar {
namespace {

struct Floats {
  float v[16];
};
struct Ints {
  int32_t v[16];
};
struct Codes {
  uint8_t v[64];
};

template <class R, class F>
inline R each(F&& f) {
  R r;
  for (int i = 0; i < 16; ++i) r.v[i] = f(i);
  return r;
}
// fmaf, not a * b + c: the fused result is part of the contract (the C library uses the FMA instruction where there is
// one).
inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline Floats zeros() { return Floats{}; }
inline Floats splat(float x) {
  return each<Floats>([&](int) { return x; });
}
inline Floats load(const float* p) {
  return each<Floats>([&](int i) { return p[i]; });
}
inline void store(float* p, Floats a) { std::memcpy(p, a.v, 64); }
inline Floats load_first(const float* p, int n) {
  return each<Floats>([&](int i) { return i < n ? p[i] : 0.0f; });
}
inline void store_first(float* p, Floats a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
inline Floats keep_first(Floats a, int n, Floats rest) {
  return each<Floats>([&](int i) { return i < n ? a.v[i] : rest.v[i]; });
}
inline Floats load_f16(const uint8_t* p) {
  uint16_t h[16];
  std::memcpy(h, p, 32);
  return each<Floats>([&](int i) { return f16_to_f32(h[i]); });
}
inline Floats load_bf16(const uint16_t* p) {
  return each<Floats>([&](int i) { return bf16_to_f32(p[i]); });
}
inline void store_bf16(uint16_t* p, Floats a) {
  for (int i = 0; i < 16; ++i) p[i] = f32_to_bf16(a.v[i]);
}
inline Floats nearest_bf16(Floats a) {
  return each<Floats>([&](int i) { return bf16_to_f32(f32_to_bf16(a.v[i])); });
}

inline Floats round_to_bf16(Floats a) {
  return each<Floats>([&](int i) {
    uint32_t b;
    std::memcpy(&b, a.v + i, 4);
    return bf16_to_f32(static_cast<uint16_t>((b + 0x8000) >> 16));
  });
}
inline void store_pairs(uint16_t* p, Floats low, Floats high) {
  for (int i = 0; i < 16; ++i) {
    p[2 * i] = f32_to_bf16(low.v[i]);
    p[2 * i + 1] = f32_to_bf16(high.v[i]);
  }
}

inline Floats add(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.v[i] + b.v[i]; });
}
inline Floats sub(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.v[i] - b.v[i]; });
}
inline Floats mul(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.v[i] * b.v[i]; });
}
inline Floats div(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.v[i] / b.v[i]; });
}
inline Floats fma(Floats a, Floats b, Floats c) {
  return each<Floats>([&](int i) { return fused(a.v[i], b.v[i], c.v[i]); });
}
inline Floats max(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Floats min(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}

inline Ints splat(int32_t x) {
  return each<Ints>([&](int) { return x; });
}
inline Ints add(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.v[i] + b.v[i]; });
}
inline Ints max(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Ints min(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
template <int kBits>
inline Ints shift_left(Ints a) {
  return each<Ints>([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << kBits); });
}
// Out of range and NaN give INT32_MIN, as the x86 conversions do.
inline Ints round_to_ints(Floats a) {
  return each<Ints>([&](int i) {
    const float r = std::nearbyint(a.v[i]);
    return r >= -0x1p31f && r < 0x1p31f ? static_cast<int32_t>(r) : INT32_MIN;
  });
}
inline Floats to_floats(Ints a) {
  return each<Floats>([&](int i) { return static_cast<float>(a.v[i]); });
}
inline Ints bits(Floats a) {
  Ints r;
  std::memcpy(r.v, a.v, 64);
  return r;
}
inline Floats from_bits(Ints a) {
  Floats r;
  std::memcpy(r.v, a.v, 64);
  return r;
}
inline Ints abs_bits(Floats a) {
  const Ints b = bits(a);
  return each<Ints>([&](int i) { return b.v[i] & 0x7fffffff; });
}
inline void store_low_bytes(int8_t* p, Ints a) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.v[i]);
}

inline uint8_t code_byte(int32_t x) { return static_cast<uint8_t>(x < -127 ? -127 : x > 127 ? 127 : x); }
inline Codes pack_codes(const Ints& a, const Ints& b, const Ints& c, const Ints& d) {
  Codes r;
  for (int i = 0; i < 16; ++i) {
    uint8_t* const quarter = r.v + i / 4 * 16 + i % 4;
    quarter[0] = code_byte(a.v[i]), quarter[4] = code_byte(b.v[i]);
    quarter[8] = code_byte(c.v[i]), quarter[12] = code_byte(d.v[i]);
  }
  return r;
}
inline Codes pack_bf16(Floats a, Floats b) {
  Codes r;
  for (int i = 0; i < 16; ++i) {
    const uint16_t low = f32_to_bf16(a.v[i]), high = f32_to_bf16(b.v[i]);
    std::memcpy(r.v + i / 4 * 16 + i % 4 * 2, &low, 2);
    std::memcpy(r.v + i / 4 * 16 + 8 + i % 4 * 2, &high, 2);
  }
  return r;
}
inline void transpose_dwords(Codes (&row)[4]) {
  const Codes from[4] = {row[0], row[1], row[2], row[3]};
  for (int q = 0; q < 4; ++q) {
    for (int i = 0; i < 4; ++i) {
      for (int r = 0; r < 4; ++r) std::memcpy(row[i].v + 16 * q + 4 * r, from[r].v + 16 * q + 4 * i, 4);
    }
  }
}
inline void store_quarters(int8_t* p, int64_t step, const Codes& c) {
  for (int q = 0; q < 4; ++q) std::memcpy(p + q * step, c.v + 16 * q, 16);
}
inline Ints add_four_bytes(const Ints& sum, const Codes& c) {
  return each<Ints>([&](int i) {
    int32_t s = sum.v[i];
    for (int j = 0; j < 4; ++j) s += static_cast<int8_t>(c.v[4 * i + j]);
    return s;
  });
}
inline void store_sum_of_quarters(int32_t* to, const Ints& v) {
  for (int i = 0; i < 4; ++i) to[i] = v.v[i] + v.v[4 + i] + v.v[8 + i] + v.v[12 + i];
}

template <class T, class F>
inline T reduce(T v[16], F&& f) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) v[i] = f(v[i], v[i + half]);
  }
  return v[0];
}
inline float sum(Floats a) {
  return reduce(a.v, [](float x, float y) { return x + y; });
}
inline float max_lane(Floats a) {
  return reduce(a.v, [](float x, float y) { return x > y ? x : y; });
}
inline int32_t max_lane(Ints a) {
  return reduce(a.v, [](int32_t x, int32_t y) { return x > y ? x : y; });
}
inline int32_t sum(Ints a) {
  return reduce(a.v, [](int32_t x, int32_t y) { return x + y; });
}

inline Codes load_codes(const uint8_t* p) {
  Codes c;
  std::memcpy(c.v, p, 64);
  return c;
}
inline Codes low_nibbles(Codes c) {
  for (uint8_t& b : c.v) b &= 15;
  return c;
}
inline Codes high_nibbles(Codes c) {
  for (uint8_t& b : c.v) b >>= 4;
  return c;
}

inline constexpr int kRowsAtOnce = 4, kRowsBesideCodes = 4;
inline constexpr bool kBytesBiased = true;

inline void dot_codes(Ints& acc, const Codes& w, const int8_t* a) {
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 4; ++j) acc.v[i] += w.v[4 * i + j] * a[j];
  }
}
inline void dot_bytes(Ints& acc, const Codes& w, const int8_t* a) { dot_codes(acc, w, a); }

using FourCodes = const uint8_t*;
inline FourCodes splat_four(const uint8_t* a) { return a; }
inline void dot_signed(Ints& acc, const Codes& w, FourCodes a) {
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 4; ++j) acc.v[i] += static_cast<int8_t>(w.v[4 * i + j]) * a[j];
  }
}

using NibbleSum = Ints;
inline NibbleSum begin_nibbles(const Ints& acc) { return acc; }
inline void dot_nibbles(NibbleSum& s, const Codes& w, const int8_t* a, bool) { dot_codes(s, w, a); }
inline Ints end_nibbles(const Ints&, const NibbleSum& s) { return s; }

inline Floats low_of_pairs(const Codes& w) {
  return each<Floats>([&](int i) { return bf16_to_f32(static_cast<uint16_t>(w.v[4 * i] | w.v[4 * i + 1] << 8)); });
}
inline Floats high_of_pairs(const Codes& w) {
  return each<Floats>([&](int i) { return bf16_to_f32(static_cast<uint16_t>(w.v[4 * i + 2] | w.v[4 * i + 3] << 8)); });
}
inline void add_element(Floats& acc, const Floats& w, const int8_t* element) {
  uint16_t bits;
  std::memcpy(&bits, element, sizeof(bits));
  for (int i = 0; i < 16; ++i) acc.v[i] = fused(w.v[i], bf16_to_f32(bits), acc.v[i]);
}
inline void add_low(Floats& acc, const Floats& w, const int8_t* pair) { add_element(acc, w, pair); }
inline void add_high(Floats& acc, const Floats& w, const int8_t* pair) { add_element(acc, w, pair + 2); }

inline int64_t peak_int8(int64_t repeats) {
  int32_t chain[8] = {};
  for (int64_t n = 0; n < repeats; ++n) {
    for (int32_t& c : chain) {
      c += static_cast<int32_t>(n & 127);
      __asm__ volatile("" : "+r"(c));
    }
  }
  return repeats * 8 * 2;
}
inline int64_t peak_bf16(int64_t) { return 0; }
inline int64_t peak_f32(int64_t repeats) {
  float chain[8] = {};
  for (int64_t n = 0; n < repeats; ++n) {
    for (float& c : chain) c = c * 0.5f + 1.0f;
  }
  float total = 0.0f;
  for (const float c : chain) total += c;
  return total > 0.0f ? repeats * 8 * 2 : 0;
}

}  // namespace
}  // namespace jiffy::scalar
