// Files by descriptor: reads and writes at a place, which several threads may do at once, and a file that appears whole
// or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace jiffy {

class File {
 public:
  // A regular file, for reading. Throws kFormat naming the path.
  static File open(const std::string& path);

  File(File&& other) noexcept;
  File& operator=(File&&) = delete;
  ~File();

  int64_t size() const { return size_; }

  // 0, or the errno of what went wrong; ENODATA for a file that ends earlier.
  int read(void* to, size_t bytes, int64_t offset) const;

 private:
  File(int descriptor, int64_t size) : descriptor_(descriptor), size_(size) {}

  int descriptor_;
  int64_t size_;
};

// A new file beside `path`, which takes its place when it is complete and on the disk. Without commit() nothing is
// left of it.
class NewFile {
 public:
  // Throws kFormat naming the path.
  explicit NewFile(const std::string& path);
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile();

  // 0, or the errno of what went wrong.
  int write(const void* from, size_t bytes, int64_t offset);

  // Throws kFormat as of `error`, an errno of write(), if there is one.
  void check(int error) const;

  // fsync, rename, fsync of the folder. Throws kFormat.
  void commit();

 private:
  std::string path_, temporary_;
  int descriptor_;
};

}  // namespace jiffy
