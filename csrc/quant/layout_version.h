#pragma once

#include <cstdint>

namespace jiffy {

// Of what a packed file holds (program/packed_head.h): one more for every change of the layout in format.h, of how
// weights become codes (quantize.h), or of what an instruction means, so that files from before are packed anew.
inline constexpr uint32_t kLayoutVersion = 5;

}  // namespace jiffy
