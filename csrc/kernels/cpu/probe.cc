// What this machine can do at best: kernels that only read, or only compute. Their shares are how others are judged.
#ifdef JIFFY_MATRIX_TILES
#include "kernels/cpu/simd/matrix_tiles.h"
#endif
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/math.h"

namespace jiffy::JIFFY_ISA {
namespace {

// Adds up lines of `streams` equal parts of the range in turn, so that no load can be left out.
template <int kStreams>
int32_t read_streams(const uint8_t* data, int64_t bytes) {
  const int64_t part = bytes / kStreams / kLineBytes * kLineBytes;
  Ints sums[kStreams];
  for (Ints& s : sums) s = splat(int32_t{0});
  for (int64_t i = 0; i < part; i += kLineBytes) {
    for (int s = 0; s < kStreams; ++s) {
      const uint8_t* line = data + s * part + i;
      __builtin_prefetch(line + 4096);
      sums[s] = add(sums[s], bits(load(reinterpret_cast<const float*>(line))));
    }
  }
  for (int s = 1; s < kStreams; ++s) sums[0] = add(sums[0], sums[s]);
  return sum(sums[0]);
}

}  // namespace

void read_probe(const ReadProbeArgs& p) {
  switch (p.streams) {
    case 1:
      *p.sum = read_streams<1>(p.data, p.bytes);
      break;
    case 2:
      *p.sum = read_streams<2>(p.data, p.bytes);
      break;
    default:
      *p.sum = read_streams<4>(p.data, p.bytes);
  }
}

void peak_probe(const PeakProbeArgs& p) {
  switch (p.arithmetic) {
    case Arithmetic::kInt8:
#ifdef JIFFY_MATRIX_TILES
      if (p.matrix_tiles) {
        *p.operations = peak_matrix_int8(p.repeats);
        break;
      }
#endif
      *p.operations = peak_int8(p.repeats);
      break;
    case Arithmetic::kBf16:
#ifdef JIFFY_MATRIX_TILES
      if (p.matrix_tiles) {
        *p.operations = peak_matrix_bf16(p.repeats);
        break;
      }
#endif
      *p.operations = peak_bf16(p.repeats);
      break;
    case Arithmetic::kF32:
      *p.operations = peak_f32(p.repeats);
      break;
  }
}

}  // namespace jiffy::JIFFY_ISA
