// The head of a packed model file: programs in their one serial form, and where in the file their weights lie.
//
// The file is a safetensors file whose tensors are all bytes and start on multiples of 4096 from its own start; each is
// filled up with zeros to the next multiple.
//
//   u64 n | header, n bytes of JSON and spaces | tensor "program" | attachments | weights ...
//
//   tensor "program"   "jiffypak" | u32 layout version | u32 0 | u64 n | u64 checksum of the n bytes | n bytes:
//   PackedHead
//
// All that is read natively stands in "program"; the JSON says nothing more and must say just that (header_text).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ops/op.h"
#include "quant/layout_version.h"

namespace jiffy {

inline constexpr int64_t kPackedAlignment = 4096;
inline constexpr int64_t kPieceBytes = 256 << 10;  // of a tensor, that have a checksum of their own: half of a small L2
inline constexpr int64_t kPrefixBytes = 32;        // of "program", before the head itself
inline constexpr char kPackedMagic[] = "jiffypak";

constexpr int64_t aligned(int64_t bytes) {
  return (bytes + kPackedAlignment - 1) / kPackedAlignment * kPackedAlignment;
}
constexpr int64_t n_pieces(int64_t bytes) { return (bytes + kPieceBytes - 1) / kPieceBytes; }

// A tensor of the file but "program" itself.
struct PackedTensor {
  std::string name;
  int64_t bytes = 0;                // without the zeros that fill it up
  std::vector<uint64_t> checksums;  // of each kPieceBytes
};

struct PackedParameter {
  enum class Kind : uint8_t { kMatrix, kFloats, kRope };

  std::string name;
  Kind kind = Kind::kMatrix;
  int64_t rows = 0, cols = 0;  // of a rope table only cols count
  int64_t tensor = 0;          // where a matrix or floats begin: so many bytes behind the start of a tensor
  int64_t offset = 0;
  int64_t slab_stride = 0;  // of a matrix
  WeightFormat format;
  RopeAngles rope;
};

// Its instructions name parameters of the file, which all programs share.
struct PackedProgram {
  std::string name;
  std::vector<Value> values;
  std::vector<Instruction> instructions;
  std::vector<std::pair<std::string, int>> marks;  // values with a name
  int result = -1;
};

struct PackedHead {
  std::vector<PackedParameter> parameters;
  std::vector<PackedProgram> programs;
  int64_t context_length = 0;  // the longest that the model may be loaded with
  int64_t n_attachments = 0;   // the first of `tensors`: bytes that mean nothing here (config, tokenizer)
  std::vector<PackedTensor> tensors;

  int64_t offset_of(size_t tensor) const;  // from the end of "program"
};

std::vector<uint8_t> head_bytes(const PackedHead& head);

// Throws kFormat naming the field for what no head_bytes() gives: every range is checked against the tensors, and every
// number against its own bounds. Whether a program makes sense is for Program's constructor to say.
PackedHead parse_head(const uint8_t* data, size_t size, const std::string& where);

// The pieces of the file's JSON, in order; joined and filled up with spaces they are the header.
std::vector<std::string> header_pieces(const PackedHead& head, int64_t head_bytes);

}  // namespace jiffy
