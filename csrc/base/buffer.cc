#include "base/buffer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace jiffy {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

size_t page_size() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

[[noreturn]] void fail_allocation(size_t bytes, const std::string& what, int error) {
  fail(ErrorKind::kOutOfMemory, what, std::to_string(bytes) + " bytes of memory",
       std::generic_category().message(error));
}

// mmap promises page alignment only: ask for `alignment` more bytes and give back what sticks out on both sides.
uint8_t* map_aligned(size_t bytes, size_t alignment) {
  const size_t slack = alignment > page_size() ? alignment : 0;
  void* mapped = mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* start = static_cast<uint8_t*>(mapped);
  if (slack == 0) return start;
  const size_t head = -reinterpret_cast<uintptr_t>(start) % alignment;
  if (head > 0) munmap(start, head);
  if (slack > head) munmap(start + head + bytes, slack - head);
  return start + head;
}

}  // namespace

Buffer Buffer::allocate(size_t bytes, const std::string& what) {
  if (bytes == 0) return Buffer();
  if (bytes > SIZE_MAX - 2 * kHugePage) fail_allocation(bytes, what, ENOMEM);
  const bool huge = bytes >= kHugePage;
  uint8_t* data = map_aligned(round_up(bytes, page_size()), huge ? kHugePage : page_size());
  if (data == nullptr) fail_allocation(bytes, what, errno);
#ifdef MADV_HUGEPAGE
  if (huge) madvise(data, round_up(bytes, page_size()), MADV_HUGEPAGE);  // advice: a kernel without it runs as well
#endif
  return Buffer(data, bytes);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  Buffer taken(std::move(other));  // leaves with what this buffer held
  std::swap(data_, taken.data_);
  std::swap(size_, taken.size_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ != nullptr) munmap(data_, round_up(size_, page_size()));
}

}  // namespace jiffy
