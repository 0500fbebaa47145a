#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/buffer.h"

namespace jiffy {

// Zero-filled memory for many pieces that live about as long as one another. Small ones share blocks in huge pages,
// which a buffer of their own would be too small for; a large one is a buffer of its own. Not for several threads at
// once.
class Arena {
 public:
  // Aligned to 64 bytes. A block lives as long as any piece of it. Throws kOutOfMemory naming `what`.
  std::shared_ptr<uint8_t> take(size_t bytes, const std::string& what);

 private:
  std::shared_ptr<Buffer> block_;
  size_t used_ = 0;
};

}  // namespace jiffy
