#include "runtime/shortlist.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"

namespace jiffy {
namespace {

constexpr size_t kHeadBytes = 48, kSummedFrom = 16;  // the checksum begins behind itself

template <class T>
std::vector<T> numbers(const uint8_t* data, size_t n) {
  std::vector<T> values(n);
  if (n > 0) std::memcpy(values.data(), data, n * sizeof(T));
  return values;
}

// A set of small numbers.
class Marks {
 public:
  explicit Marks(int64_t n) : words_(static_cast<size_t>((n + 63) / 64), 0) {}

  void mark(uint64_t i) { words_[i / 64] |= uint64_t{1} << i % 64; }

  std::vector<int32_t> ascending() const {
    std::vector<int32_t> found;
    found.reserve(count());
    for (size_t w = 0; w < words_.size(); ++w) {
      for (uint64_t left = words_[w]; left != 0; left &= left - 1) {
        found.push_back(static_cast<int32_t>(64 * w) + std::countr_zero(left));
      }
    }
    return found;
  }

 private:
  size_t count() const {
    size_t n = 0;
    for (const uint64_t word : words_) n += static_cast<size_t>(std::popcount(word));
    return n;
  }

  std::vector<uint64_t> words_;
};

}  // namespace

uint64_t shortlist_checksum(const uint8_t* words, size_t n) {
  uint64_t sum = 0;
  for (size_t i = 0; i < n; ++i) {
    uint64_t word;
    std::memcpy(&word, words + 8 * i, 8);
    sum ^= word + 0x9e3779b9 + (sum << 6) + (sum >> 2);
  }
  return sum;
}

Shortlist::Shortlist(const uint8_t* data, size_t size, const std::string& where, ShortlistUse use)
    : use_(std::move(use)) {
  ByteReader head(data, size, where);
  const auto equal = [&](const char* field, uint64_t found, uint64_t expected) {
    if (found == expected) return;
    fail(ErrorKind::kFormat, head.place(field), std::to_string(expected), std::to_string(found));
  };
  equal("magic", head.number<uint64_t>("magic"), kShortlistMagic);
  const auto checksum = head.number<uint64_t>("checksum"), n_first = head.number<uint64_t>("first");
  head.number<uint64_t>("best");  // the lists are cut already
  const auto n_offsets = static_cast<uint64_t>(use_.source_vocab) + 1;
  equal("number of offsets", head.number<uint64_t>("number of offsets"), n_offsets);
  const auto n_ids = head.number<uint64_t>("number of ids", 0, size);  // so that nothing overflows
  equal("bytes", size, kHeadBytes + sizeof(uint64_t) * n_offsets + sizeof(uint32_t) * n_ids);
  equal("checksum", shortlist_checksum(data + kSummedFrom, (size - kSummedFrom) / sizeof(uint64_t)), checksum);
  n_first_ = static_cast<int64_t>(std::min(n_first, static_cast<uint64_t>(use_.target_vocab)));
  offsets_ = numbers<uint64_t>(data + kHeadBytes, n_offsets);
  ids_ = numbers<uint32_t>(data + kHeadBytes + sizeof(uint64_t) * n_offsets, n_ids);
  check_lists(where);
}

void Shortlist::check_lists(const std::string& where) const {
  const auto wrong = [&](const char* field, const std::string& expected, uint64_t found) {
    fail(ErrorKind::kFormat, where + " " + field, expected, std::to_string(found));
  };
  for (const int32_t id : use_.eos_ids) {
    if (id >= n_first_) wrong("first", "more than " + std::to_string(id) + ", which ends a text", n_first_);
  }
  for (size_t i = 0; i < offsets_.size(); ++i) {
    if (i > 0 && offsets_[i] < offsets_[i - 1]) wrong("offsets", "an order that ascends", offsets_[i]);
    if (offsets_[i] > ids_.size())
      wrong("offsets", "at most " + std::to_string(ids_.size()) + ", the ids", offsets_[i]);
  }
  for (const uint32_t id : ids_) {
    if (id >= use_.target_vocab) wrong("ids", "tokens below " + std::to_string(use_.target_vocab), id);
  }
}

bool Shortlist::covers(const std::vector<int32_t>& source) const {
  return use_.unk_id < 0 || std::find(source.begin(), source.end(), use_.unk_id) == source.end();
}

std::vector<int32_t> Shortlist::candidates(const std::vector<int32_t>& source, const std::vector<int32_t>& more) const {
  int64_t n_marks = use_.target_vocab;
  for (const int32_t id : more) n_marks = std::max<int64_t>(n_marks, id + int64_t{1});
  Marks marks(n_marks);
  for (int64_t id = 0; id < n_first_; ++id) marks.mark(static_cast<uint64_t>(id));
  for (const int32_t token : source) {
    if (token < 0 || token >= use_.source_vocab)
      continue;  // one that the vocabulary doesn't have, as what decoders begin with
    const auto t = static_cast<size_t>(token);
    for (uint64_t i = offsets_[t]; i < offsets_[t + 1]; ++i) marks.mark(ids_[i]);
    if (use_.shared && token < use_.target_vocab) marks.mark(t);
  }
  for (const int32_t id : more) marks.mark(static_cast<uint64_t>(id));
  return marks.ascending();
}

}  // namespace jiffy
