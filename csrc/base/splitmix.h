#pragma once

#include <cstdint>

namespace jiffy {

// A bijection of 64 bits that spreads every bit of x over all: the finaliser of splitmix64 (Steele, Lea and Flood
// 2014).
inline uint64_t splitmix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace jiffy
