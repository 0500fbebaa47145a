// Lexical shortlists, as Marian's students come with: which tokens the translation of a text is made of.
//
// A file, all numbers little-endian:
//
//   u64 magic | u64 checksum | u64 first | u64 best | u64 n offsets | u64 n ids | u64 offsets [n] | u32 ids [n]
//
// The translations of source token t are ids[offsets[t] : offsets[t + 1]], at most `best` of them; the first `first`
// ids of the vocabulary, its commonest, translate anything. The checksum is of all 64-bit words behind it (Marian's
// BinaryShortlistGenerator and util::hashMem).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace jiffy {

inline constexpr uint64_t kShortlistMagic = 0xF11A48D5013417F5;

// What a shortlist must fit.
struct ShortlistUse {
  int64_t source_vocab, target_vocab;  // tokens
  bool shared;                         // they are one vocabulary: a token may be its own translation
  std::vector<int32_t> eos_ids;        // that any translation may end with
  int32_t unk_id;                      // what stands for all that the source vocabulary doesn't have, or -1
};

class Shortlist {
 public:
  // data: a file's bytes. Throws kFormat that begins with `where` and names the field.
  Shortlist(const uint8_t* data, size_t size, const std::string& where, ShortlistUse use);

  // Whether the lists say anything about a text: not of what its vocabulary doesn't have.
  bool covers(const std::vector<int32_t>& source) const;

  // The tokens that may translate a text, ascending: a function of its tokens, and of `more`, which are among them;
  // none of these is below 0.
  std::vector<int32_t> candidates(const std::vector<int32_t>& source, const std::vector<int32_t>& more = {}) const;

  int64_t target_vocab() const { return use_.target_vocab; }

 private:
  void check_lists(const std::string& where) const;

  const ShortlistUse use_;
  int64_t n_first_ = 0;
  std::vector<uint64_t> offsets_;  // [source_vocab + 1]
  std::vector<uint32_t> ids_;
};

// The checksum of such files, of n 64-bit words.
uint64_t shortlist_checksum(const uint8_t* words, size_t n);

}  // namespace jiffy
