#include "program/packed_file.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <system_error>

#include "base/checksum.h"

namespace jiffy {
namespace {

constexpr int64_t kMostHeaderBytes = 1 << 25;  // a tensor takes about 100; as python/jiffy/safetensors.py has it
constexpr int64_t kMostHeadBytes = int64_t{1} << 30;
constexpr int kShownBytes = 100;

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

int64_t int64_at(const uint8_t* p) {
  int64_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

// The length of the JSON, or -1 if no packed file has such a one.
int64_t header_length(const File& file) {
  uint8_t raw[8];
  if (file.size() < 8 + kPrefixBytes || file.read(raw, 8, 0) != 0) return -1;
  const int64_t n = int64_at(raw);
  const bool sound = n > 0 && n <= std::min(file.size() - 8 - kPrefixBytes, kMostHeaderBytes);
  return sound && (8 + n) % kPackedAlignment == 0 ? n : -1;
}

// A buffer that keeps the memory of a program's weights, and names no one of them.
struct Arena {
  Buffer memory;
};

struct Piece {
  size_t tensor;
  int64_t index;
};

std::vector<Piece> pieces_of(const PackedHead& head, size_t begin, size_t end) {
  std::vector<Piece> pieces;
  for (size_t t = begin; t < end; ++t) {
    for (int64_t i = 0; i < n_pieces(head.tensors[t].bytes); ++i) pieces.push_back({t, i});
  }
  return pieces;
}

}  // namespace

bool is_packed(const std::string& path) {
  const File file = File::open(path);
  const int64_t n = header_length(file);
  char magic[8];
  return n >= 0 && file.read(magic, 8, 8 + n) == 0 && std::memcmp(magic, kPackedMagic, 8) == 0;
}

PackedFile::PackedFile(const std::string& path) : name_(base_name(path)), file_(File::open(path)) {
  const int64_t n = header_length(file_);
  if (n < 0) {
    fail(ErrorKind::kFormat, place("header length"),
         "8 bytes less than a multiple of 4096, within the file of " + std::to_string(file_.size()) + " bytes",
         "another number");
  }
  read_head(n);
}

void PackedFile::read(void* to, size_t bytes, int64_t offset, const std::string& field) const {
  if (const int error = file_.read(to, bytes, offset)) {
    fail(ErrorKind::kFormat, place(field), std::to_string(bytes) + " bytes at " + std::to_string(offset),
         std::generic_category().message(error));
  }
}

void PackedFile::read_head(int64_t header_bytes) {
  const int64_t begin = 8 + header_bytes;
  uint8_t prefix[kPrefixBytes];
  read(prefix, sizeof(prefix), begin, "program");
  if (std::memcmp(prefix, kPackedMagic, 8) != 0) {
    fail(ErrorKind::kFormat, place("program magic"), kPackedMagic, "other bytes");
  }
  const int64_t layout = int64_at(prefix + 8), size = int64_at(prefix + 16);
  if (layout != kLayoutVersion) {
    fail(ErrorKind::kUnsupported, place("layout version"),
         std::to_string(kLayoutVersion) + ", which this jiffy writes; pack the model anew", std::to_string(layout));
  }
  const int64_t room = std::min(file_.size() - begin - kPrefixBytes, kMostHeadBytes);
  if (size < 1 || size > room) {
    fail(ErrorKind::kFormat, place("program length"), "1 to " + std::to_string(room) + " bytes", std::to_string(size));
  }
  std::vector<uint8_t> bytes(static_cast<size_t>(size));
  read(bytes.data(), bytes.size(), begin + kPrefixBytes, "program");
  if (checksum(bytes.data(), bytes.size()) != static_cast<uint64_t>(int64_at(prefix + 24))) {
    fail(ErrorKind::kFormat, place("program"), "bytes of its checksum", "damaged ones");
  }
  head_ = parse_head(bytes.data(), bytes.size(), place("program"));
  int64_t end = begin + aligned(kPrefixBytes + size);
  for (const PackedTensor& tensor : head_.tensors) {
    offsets_.push_back(end);
    if (tensor.bytes > file_.size() - std::min(end, file_.size())) {
      fail(ErrorKind::kFormat, place("tensor " + tensor.name), std::to_string(tensor.bytes) + " bytes",
           "a file of " + std::to_string(file_.size()));
    }
    end += aligned(tensor.bytes);
  }
  if (end != file_.size()) {
    fail(ErrorKind::kFormat, place("size"), std::to_string(end) + " bytes", std::to_string(file_.size()));
  }
  check_header(header_bytes, size);
}

// The JSON is for other readers of safetensors; saying something else than the program does, it would show them
// another file.
void PackedFile::check_header(int64_t header_bytes, int64_t head_size) const {
  std::string text(static_cast<size_t>(header_bytes), ' ');
  read(text.data(), text.size(), 8, "header");
  size_t at = 0;
  for (const std::string& piece : header_pieces(head_, head_size)) {
    if (text.compare(at, piece.size(), piece) != 0) {
      fail(ErrorKind::kFormat, place("header at " + std::to_string(8 + at)), piece, text.substr(at, kShownBytes));
    }
    at += piece.size();
  }
  if (text.find_first_not_of(' ', at) != std::string::npos || text.size() - at >= kPackedAlignment) {
    fail(ErrorKind::kFormat, place("header end"), "less than 4096 spaces", "something else");
  }
}

bool PackedFile::one_context() const {
  return std::any_of(head_.parameters.begin(), head_.parameters.end(),
                     [](const PackedParameter& p) { return p.rope.one_context; });
}

bool PackedFile::has_attachment(const std::string& name) const {
  const auto end = head_.tensors.begin() + head_.n_attachments;
  return std::any_of(head_.tensors.begin(), end, [&](const PackedTensor& tensor) { return tensor.name == name; });
}

std::string PackedFile::attachment(const std::string& name) const {
  for (size_t t = 0; t < static_cast<size_t>(head_.n_attachments); ++t) {
    const PackedTensor& tensor = head_.tensors[t];
    if (tensor.name != name) continue;
    std::string bytes(static_cast<size_t>(tensor.bytes), '\0');
    read(bytes.data(), bytes.size(), offsets_[t], name);
    for (size_t i = 0; i < tensor.checksums.size(); ++i) {
      const size_t begin = i * kPieceBytes, n = std::min<size_t>(kPieceBytes, bytes.size() - begin);
      if (checksum(bytes.data() + begin, n) != tensor.checksums[i]) {
        fail(ErrorKind::kFormat, place(name), "bytes of their checksum", "damage from byte " + std::to_string(begin));
      }
    }
    return bytes;
  }
  fail(ErrorKind::kFormat, place(name), "an attachment of this name", "none");
}

std::vector<std::string> PackedFile::attachments() const {
  std::vector<std::string> names;
  for (int64_t t = 0; t < head_.n_attachments; ++t) names.push_back(head_.tensors[static_cast<size_t>(t)].name);
  return names;
}

std::vector<NamedProgram> PackedFile::programs(int64_t context, ThreadPool& pool) const {
  if (context < 1 || context > head_.context_length) {
    fail(ErrorKind::kParameter, "context", "1 to " + std::to_string(head_.context_length) + ", as in " + name_,
         std::to_string(context));
  }
  const auto first = static_cast<size_t>(head_.n_attachments);
  const int64_t bytes = first < offsets_.size() ? file_.size() - offsets_[first] : 0;
  const auto arena = std::make_shared<Arena>();
  arena->memory = Buffer::allocate(static_cast<size_t>(bytes), "weights of " + name_);
  auto* memory = arena->memory.as<uint8_t>();
  std::vector<Parameter> parameters;
  for (const PackedParameter& p : head_.parameters) parameters.push_back(parameter(p, memory, context));
  std::vector<NamedProgram> programs;  // before the weights are read: a broken one costs nothing
  for (const PackedProgram& p : head_.programs) {
    ProgramSpec spec{.values = p.values,
                     .parameters = parameters,
                     .instructions = p.instructions,
                     .result = p.result,
                     .context_length = context,
                     .owners = {arena}};
    programs.push_back({p.name, std::make_shared<const Program>(std::move(spec)), p.marks});
  }
  read_weights(memory, pool);
  return programs;
}

Parameter PackedFile::parameter(const PackedParameter& p, uint8_t* arena, int64_t context) const {
  Parameter made;
  made.name = p.name;
  made.rows = p.rows;
  made.cols = p.cols;
  if (p.kind == PackedParameter::Kind::kRope) {
    if (p.rope.one_context && context != head_.context_length) {
      fail(ErrorKind::kParameter, "context",
           std::to_string(head_.context_length) + ", for which " + name_ + " was packed; pack the model anew",
           std::to_string(context));
    }
    made.rope = std::make_shared<RopeTable>(p.rope, context);
    made.rows = context;
    made.floats = made.rope->data();
    return made;
  }
  uint8_t* data =
      arena + (offsets_[static_cast<size_t>(p.tensor)] - offsets_[static_cast<size_t>(head_.n_attachments)]) + p.offset;
  if (p.kind == PackedParameter::Kind::kFloats) {
    made.floats = reinterpret_cast<const float*>(data);
  } else {
    made.matrix = {data, p.slab_stride, p.rows, p.cols, p.format};
  }
  return made;
}

// Read and checked piece by piece, so that a piece is still in the cache when its checksum is taken.
void PackedFile::read_weights(uint8_t* arena, ThreadPool& pool) const {
  const auto first = static_cast<size_t>(head_.n_attachments);
  const std::vector<Piece> pieces = pieces_of(head_, first, head_.tensors.size());
  std::atomic<int64_t> damaged{-1};
  pool.run([&](Lane& lane) {
    for (int64_t next; (next = lane.next_chunk()) < static_cast<int64_t>(pieces.size()) && damaged < 0;) {
      const Piece& piece = pieces[static_cast<size_t>(next)];
      const PackedTensor& tensor = head_.tensors[piece.tensor];
      const int64_t begin = piece.index * kPieceBytes, place = offsets_[piece.tensor] + begin;
      const auto n = static_cast<size_t>(std::min(kPieceBytes, tensor.bytes - begin));
      uint8_t* to = arena + (place - offsets_[first]);
      const bool sound =
          file_.read(to, n, place) == 0 && checksum(to, n) == tensor.checksums[static_cast<size_t>(piece.index)];
      if (!sound) damaged = next;
    }
  });
  if (damaged < 0) return;
  const Piece& piece = pieces[static_cast<size_t>(damaged)];
  fail(ErrorKind::kFormat, place("tensor " + head_.tensors[piece.tensor].name), "bytes of their checksum",
       "damage from byte " + std::to_string(piece.index * kPieceBytes));
}

}  // namespace jiffy
