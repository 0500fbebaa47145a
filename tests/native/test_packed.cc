// What the packed file stands on; the file itself is tested from Python (tests/test_packed.py, tests/hostile).
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/bytes.h"
#include "base/checksum.h"
#include "base/file.h"
#include "check.h"

namespace jiffy {
namespace {

TEST(arena_pieces_are_aligned_apart_and_outlive_it) {
  std::vector<std::shared_ptr<uint8_t>> pieces;
  const size_t sizes[] = {1, 64, 65, 100000, (size_t{2} << 20) - 1, size_t{3} << 20, 7};
  {
    Arena arena;
    for (int round = 0; round < 20; ++round) {
      for (const size_t size : sizes) pieces.push_back(arena.take(size, "test"));
    }
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    CHECK_EQ(reinterpret_cast<uintptr_t>(pieces[i].get()) % 64, 0);
    std::memset(pieces[i].get(), static_cast<int>(i), sizes[i % 7]);
  }
  size_t wrong = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    for (size_t b = 0; b < sizes[i % 7]; ++b) wrong += pieces[i].get()[b] != i;
  }
  CHECK_EQ(wrong, 0);
}

TEST(bytes_come_back_and_end_where_they_end) {
  ByteWriter w;
  w.number(1.5);
  w.text("text");
  w.numbers(std::vector<int>{1, -2, 3});
  const std::vector<uint8_t>& bytes = w.bytes();
  ByteReader r(bytes.data(), bytes.size(), "test");
  CHECK_EQ(r.number<double>("a"), 1.5);
  CHECK_EQ(r.text("b"), std::string("text"));
  CHECK(r.numbers<int>("c") == std::vector<int>({1, -2, 3}));
  r.end();
  CHECK_THROWS(ErrorKind::kFormat, r.number<uint8_t>("d"));
  for (size_t n = 0; n < bytes.size(); ++n) {
    ByteReader shorter(bytes.data(), n, "test");
    const auto read = [&] {
      shorter.number<double>("a");
      shorter.text("b");
      shorter.numbers<int>("c");
    };
    CHECK_THROWS(ErrorKind::kFormat, read());
  }
}

TEST(a_new_file_appears_whole_or_not_at_all) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("jiffy-" + std::to_string(getpid()) + "-new-file");
  std::filesystem::create_directory(folder);
  const std::string path = (folder / "a").string();
  const auto n_files = [&] {
    return std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
  };
  {
    NewFile file(path);
    CHECK_EQ(file.write("ab", 2, 3), 0);
  }
  CHECK_EQ(n_files(), 0);
  {
    NewFile file(path);
    CHECK_EQ(file.write("ab", 2, 3), 0);
    file.commit();
  }
  CHECK_EQ(n_files(), 1);
  const File file = File::open(path);
  char read[5];
  CHECK_EQ(file.size(), 5);
  CHECK_EQ(file.read(read, 5, 0), 0);
  CHECK_EQ(std::memcmp(read, "\0\0\0ab", 5), 0);
  CHECK(file.read(read, 3, 3) != 0);
  CHECK_THROWS(ErrorKind::kFormat, File::open(folder.string()));
  CHECK_THROWS(ErrorKind::kFormat, File::open(path + "b"));
  CHECK_THROWS(ErrorKind::kFormat, NewFile(path + "/b"));
  std::filesystem::remove_all(folder);
}

TEST(checksum_depends_on_length_and_place) {
  std::vector<uint8_t> data(1000);
  const uint64_t zeros = checksum(data.data(), data.size());
  CHECK(checksum(data.data(), 999) != zeros);
  for (size_t i = 0; i + 64 < data.size(); ++i) {  // twice the same in one chain, which a sum alone would lose
    data[i] ^= 0x80;
    data[i + 64] ^= 0x80;
    CHECK(checksum(data.data(), data.size()) != zeros);
    data[i] = data[i + 64] = 0;
  }
}

}  // namespace
}  // namespace jiffy
