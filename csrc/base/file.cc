#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <random>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace jiffy {
namespace {

constexpr int kAttempts = 100;  // to find a name that no other writer has

[[noreturn]] void unreadable(const std::string& path, const std::string& found) {
  fail(ErrorKind::kFormat, path, "a readable file", found);
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

}  // namespace

File File::open(const std::string& path) {
  if (path.find('\0') != std::string::npos) unreadable("file", "a path with a zero byte");
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe without a writer would wait
  if (descriptor < 0) unreadable(path, std::generic_category().message(errno));
  struct stat status;
  File file(descriptor, 0);
  if (fstat(descriptor, &status) != 0) unreadable(path, std::generic_category().message(errno));
  if (!S_ISREG(status.st_mode)) unreadable(path, "something that is no regular file");
  file.size_ = status.st_size;
  return file;
}

File::File(File&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)), size_(other.size_) {}

File::~File() {
  if (descriptor_ >= 0) close(descriptor_);
}

int File::read(void* to, size_t bytes, int64_t offset) const {
  auto* p = static_cast<uint8_t*>(to);
  while (bytes > 0) {
    const ssize_t n = pread(descriptor_, p, bytes, offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : ENODATA;
    p += n;
    offset += n;
    bytes -= static_cast<size_t>(n);
  }
  return 0;
}

NewFile::NewFile(const std::string& path) : path_(path), descriptor_(-1) {
  if (path.find('\0') != std::string::npos) fail(ErrorKind::kFormat, "file", "a path", "one with a zero byte");
  std::random_device random;
  for (int i = 0; i < kAttempts; ++i) {
    temporary_ = path + ".tmp-" + std::to_string(random());
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ >= 0 || errno != EEXIST) break;
  }
  if (descriptor_ < 0) check(errno);
}

NewFile::~NewFile() {
  if (descriptor_ < 0) return;
  close(descriptor_);
  unlink(temporary_.c_str());
}

int NewFile::write(const void* from, size_t bytes, int64_t offset) {
  const auto* p = static_cast<const uint8_t*>(from);
  while (bytes > 0) {
    const ssize_t n = pwrite(descriptor_, p, bytes, offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    p += n;
    offset += n;
    bytes -= static_cast<size_t>(n);
  }
  return 0;
}

void NewFile::check(int error) const {
  if (error != 0) fail(ErrorKind::kFormat, path_, "a file that can be written", std::generic_category().message(error));
}

void NewFile::commit() {
  check(fsync(descriptor_) == 0 ? 0 : errno);
  check(std::rename(temporary_.c_str(), path_.c_str()) == 0 ? 0 : errno);
  close(std::exchange(descriptor_, -1));
  const int folder = ::open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;  // some folders may be written in but not read
  fsync(folder);
  close(folder);
}

}  // namespace jiffy
