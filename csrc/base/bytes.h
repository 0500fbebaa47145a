// Plain data as bytes and back: little-endian numbers, texts and lists with their counts in front.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "base/error.h"

namespace jiffy {

class ByteWriter {
 public:
  template <class T>
  void number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    const auto* p = reinterpret_cast<const uint8_t*>(&value);
    bytes_.insert(bytes_.end(), p, p + sizeof(T));
  }
  void text(const std::string& text) {
    number(static_cast<uint32_t>(text.size()));
    bytes_.insert(bytes_.end(), text.begin(), text.end());
  }
  template <class T>
  void numbers(const std::vector<T>& values) {
    number(static_cast<uint32_t>(values.size()));
    for (const T value : values) number(value);
  }

  const std::vector<uint8_t>& bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
};

// Every read names the field that it is for, and throws kFormat naming it where the bytes end earlier.
class ByteReader {
 public:
  ByteReader(const uint8_t* data, size_t size, std::string where)
      : data_(data), left_(size), where_(std::move(where)) {}

  std::string place(const std::string& field) const { return where_ + " " + field; }

  template <class T>
  T number(const std::string& field) {
    static_assert(std::is_arithmetic_v<T>);
    T value;
    std::memcpy(&value, take(sizeof(T), field), sizeof(T));
    return value;
  }
  // A number from `least` to `most`.
  template <class T>
  T number(const std::string& field, T least, T most) {
    const T value = number<T>(field);
    if (value < least || value > most) {
      fail(ErrorKind::kFormat, place(field), std::to_string(least) + " to " + std::to_string(most),
           std::to_string(value));
    }
    return value;
  }
  bool flag(const std::string& field) { return number<uint8_t>(field, 0, 1) != 0; }
  // How many items of at least `item_bytes` follow: never more than the bytes that are left could hold.
  size_t count(const std::string& field, size_t item_bytes) {
    const size_t n = number<uint32_t>(field);
    if (n > left_ / item_bytes) {
      fail(ErrorKind::kFormat, place(field), "at most " + std::to_string(left_ / item_bytes), std::to_string(n));
    }
    return n;
  }
  // Of printable ASCII, so that it may stand in messages.
  std::string text(const std::string& field) {
    const size_t n = count(field, 1);
    const std::string text(reinterpret_cast<const char*>(take(n, field)), n);
    for (const char c : text) {
      if (c < ' ' || c > '~') fail(ErrorKind::kFormat, place(field), "printable ASCII", "another byte");
    }
    return text;
  }
  template <class T>
  std::vector<T> numbers(const std::string& field) {
    std::vector<T> values(count(field, sizeof(T)));
    for (T& value : values) value = number<T>(field);
    return values;
  }
  void end() const {
    if (left_ > 0) fail(ErrorKind::kFormat, place("end"), "no more bytes", std::to_string(left_));
  }

 private:
  const uint8_t* take(size_t n, const std::string& field) {
    if (n > left_) {
      fail(ErrorKind::kFormat, place(field), std::to_string(n) + " bytes", std::to_string(left_) + ", the rest");
    }
    const uint8_t* p = data_;
    data_ += n;
    left_ -= n;
    return p;
  }

  const uint8_t* data_;
  size_t left_;
  std::string where_;
};

}  // namespace jiffy
