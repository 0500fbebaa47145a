#include "base/arena.h"

namespace jiffy {
namespace {

constexpr size_t kBlockBytes = size_t{32} << 20;
constexpr size_t kLargeBytes = size_t{2} << 20;  // from here on a Buffer has huge pages of its own
constexpr size_t kAlignment = 64;

}  // namespace

std::shared_ptr<uint8_t> Arena::take(size_t bytes, const std::string& what) {
  if (bytes >= kLargeBytes) {
    auto own = std::make_shared<Buffer>(Buffer::allocate(bytes, what));
    return {own, own->as<uint8_t>()};
  }
  if (block_ == nullptr || bytes > block_->size() - used_) {
    block_ = std::make_shared<Buffer>(Buffer::allocate(kBlockBytes, what));
    used_ = 0;
  }
  uint8_t* piece = block_->as<uint8_t>() + used_;
  used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return {block_, piece};
}

}  // namespace jiffy
