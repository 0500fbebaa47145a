#pragma once

#include <cstddef>
#include <string>
#include <type_traits>

namespace jiffy {

// Owns zero-filled anonymous memory. The operating system commits a page when it is first touched, so a buffer costs
// what is used of it. From 2 MiB on it is aligned to 2 MiB and advised to sit in huge pages (decode reads about 10 %
// faster from them); a smaller one is aligned to a page (at least 4096 bytes).
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  // `what` names the buffer in the kOutOfMemory error that a failure throws. No bytes give a null data().
  static Buffer allocate(size_t bytes, const std::string& what);

  void* data() { return data_; }
  const void* data() const { return data_; }
  size_t size() const { return size_; }

  template <class T>
  T* as() {
    static_assert(std::is_trivially_copyable_v<T>, "raw memory holds plain data only");
    return static_cast<T*>(data_);
  }
  template <class T>
  const T* as() const {
    static_assert(std::is_trivially_copyable_v<T>, "raw memory holds plain data only");
    return static_cast<const T*>(data_);
  }

 private:
  Buffer(void* data, size_t size) : data_(data), size_(size) {}

  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace jiffy
