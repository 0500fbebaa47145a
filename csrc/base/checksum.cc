#include "base/checksum.h"

#include <bit>
#include <cstring>

namespace jiffy {
namespace {

constexpr int kChains = 8;
constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;

// A bijection of `chain` for every word, and of `word` for every chain. The rotation brings high bits down, which a
// product alone only carries up.
uint64_t mixed(uint64_t chain, uint64_t word) { return std::rotl((chain ^ word) * kOdd, 29); }

}  // namespace

uint64_t checksum(const void* data, size_t bytes) {
  constexpr size_t kStep = kChains * sizeof(uint64_t);
  const auto* p = static_cast<const uint8_t*>(data);
  uint64_t chains[kChains];
  for (int i = 0; i < kChains; ++i) chains[i] = kOdd * static_cast<uint64_t>(i + 1);
  size_t left = bytes;
  for (; left >= kStep; left -= kStep, p += kStep) {
    uint64_t words[kChains];
    std::memcpy(words, p, kStep);
    for (int i = 0; i < kChains; ++i) chains[i] = mixed(chains[i], words[i]);
  }
  uint64_t words[kChains] = {};
  if (left > 0) std::memcpy(words, p, left);
  uint64_t sum = mixed(kOdd, bytes);
  for (int i = 0; i < kChains; ++i) sum = mixed(sum, mixed(chains[i], words[i]));
  return sum ^ sum >> 32;
}

}  // namespace jiffy
