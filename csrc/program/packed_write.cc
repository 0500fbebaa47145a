// Programs into a packed file: which memory their weights take, and that memory, piece by piece, onto the disk.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <set>

#include "base/checksum.h"
#include "program/packed_file.h"

namespace jiffy {
namespace {

struct Extent {
  const uint8_t* begin;
  const uint8_t* end;
  size_t parameter;
};

Extent extent_of(const Parameter& p, size_t index) {
  if (p.matrix.data == nullptr) {
    const auto* data = reinterpret_cast<const uint8_t*>(p.floats);
    return {data, data + p.rows * p.cols * static_cast<int64_t>(sizeof(float)), index};
  }
  const PackedMatrix& m = p.matrix;
  return {m.data, m.slab(n_slabs(m.rows) - 1) + slab_bytes(m.format, m.cols), index};
}

PackedParameter description(const Parameter& p) {
  PackedParameter packed{.name = p.name, .rows = p.rows, .cols = p.cols, .format = {}, .rope = {}};
  if (p.rope != nullptr) {
    packed.kind = PackedParameter::Kind::kRope;
    packed.rope = p.rope->angles();
  } else if (p.matrix.data == nullptr) {
    packed.kind = PackedParameter::Kind::kFloats;
  } else {
    packed.slab_stride = p.matrix.slab_stride;
    packed.format = p.matrix.format;
  }
  return packed;
}

// Matrices and rope tables are one by their memory. Every program has copies of its vectors, so these are one by what
// is in them.
bool same(const Parameter& a, const Parameter& b) {
  if (a.rows != b.rows || a.cols != b.cols || a.rope != b.rope) return false;
  if (a.matrix.data != nullptr || b.matrix.data != nullptr) return a.matrix.data == b.matrix.data;
  const auto n = static_cast<size_t>(a.rows * a.cols);
  return a.rope != nullptr || std::memcmp(a.floats, b.floats, n * sizeof(float)) == 0;
}

class PackedWriter {
 public:
  PackedWriter(const std::vector<NamedProgram>& programs, const PackedExtras& extras) {
    for (const NamedProgram& named : programs) add_program(named);
    head_.context_length = extras.context_length;
    head_.n_attachments = static_cast<int64_t>(extras.attachments.size());
    for (const auto& [name, bytes] : extras.attachments) {
      add_tensor(name, reinterpret_cast<const uint8_t*>(bytes.data()), static_cast<int64_t>(bytes.size()));
    }
    place_weights();
  }

  void write(const std::string& path, ThreadPool& pool) {
    const auto head_size = static_cast<int64_t>(head_bytes(head_).size());  // checksums change no size
    const std::string header = padded_header(head_size);
    const int64_t head_begin = static_cast<int64_t>(header.size());
    const int64_t data_begin = head_begin + aligned(kPrefixBytes + head_size);
    NewFile file(path);
    file.check(write_tensors(file, data_begin, pool));
    file.check(file.write(header.data(), header.size(), 0));
    std::vector<uint8_t> program = with_prefix(head_bytes(head_));
    program.resize(static_cast<size_t>(aligned(kPrefixBytes + head_size)));
    file.check(file.write(program.data(), program.size(), head_begin));
    file.commit();
  }

 private:
  void add_program(const NamedProgram& named) {
    const Program& program = *named.program;
    std::vector<int> places;  // of its parameters among those of all programs
    for (const Parameter& p : program.parameters()) places.push_back(place_of(p));
    PackedProgram packed{named.name, program.values(), program.instructions(), named.marks, program.result()};
    for (Instruction& at : packed.instructions) {
      for (int& p : at.parameters) p = p < 0 ? p : places[static_cast<size_t>(p)];
    }
    head_.programs.push_back(std::move(packed));
  }

  int place_of(const Parameter& p) {
    const auto found = std::find_if(parameters_.begin(), parameters_.end(), [&](auto& one) { return same(one, p); });
    if (found != parameters_.end()) return static_cast<int>(found - parameters_.begin());
    parameters_.push_back(p);
    std::string& name = parameters_.back().name;  // a tensor's name: vectors of two programs are numbered alike
    for (int i = 2; !names_.insert(name).second; ++i) name = p.name + " " + std::to_string(i);
    return static_cast<int>(parameters_.size()) - 1;
  }

  void add_tensor(const std::string& name, const uint8_t* data, int64_t bytes) {
    head_.tensors.push_back({name, bytes, std::vector<uint64_t>(static_cast<size_t>(n_pieces(bytes)))});
    data_.push_back(data);
  }

  // One tensor for each stretch of memory that parameters lie in: two interleaved matrices share theirs. The tensors
  // are in the order of the parameters, which is that in which a step reads them.
  void place_weights() {
    std::vector<Extent> extents;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      head_.parameters.push_back(description(parameters_[i]));
      if (parameters_[i].rope == nullptr) extents.push_back(extent_of(parameters_[i], i));
    }
    std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
    std::vector<std::vector<Extent>> stretches;
    const uint8_t* end = nullptr;
    for (const Extent& extent : extents) {
      if (stretches.empty() || extent.begin >= end) stretches.push_back({});
      stretches.back().push_back(extent);
      end = std::max(end, extent.end);
    }
    const auto first = [](const std::vector<Extent>& stretch) {
      return std::min_element(stretch.begin(), stretch.end(),
                              [](auto& a, auto& b) { return a.parameter < b.parameter; })
          ->parameter;
    };
    std::sort(stretches.begin(), stretches.end(), [&](auto& a, auto& b) { return first(a) < first(b); });
    for (const std::vector<Extent>& stretch : stretches) place_stretch(stretch);
  }

  void place_stretch(const std::vector<Extent>& stretch) {
    const uint8_t *begin = stretch.front().begin, *end = begin;
    std::string name;
    for (const Extent& extent : stretch) {
      PackedParameter& p = head_.parameters[extent.parameter];
      p.tensor = static_cast<int64_t>(head_.tensors.size());
      p.offset = extent.begin - begin;
      end = std::max(end, extent.end);
      name += (name.empty() ? "" : "+") + p.name;
    }
    add_tensor(name, begin, end - begin);
  }

  // The JSON with its length in front, a whole number of kPackedAlignment.
  std::string padded_header(int64_t head_size) const {
    std::string text(8, '\0');
    for (const std::string& piece : header_pieces(head_, head_size)) text += piece;
    text.resize(static_cast<size_t>(aligned(static_cast<int64_t>(text.size()))), ' ');
    const uint64_t length = text.size() - 8;
    std::memcpy(text.data(), &length, 8);
    return text;
  }

  // Every piece's checksum into head_, and the piece into the file. Returns 0 or an errno.
  int write_tensors(NewFile& file, int64_t data_begin, ThreadPool& pool) {
    struct Piece {
      size_t tensor;
      int64_t index, place;
    };
    std::vector<Piece> pieces;
    for (size_t t = 0; t < head_.tensors.size(); ++t) {
      const int64_t place = data_begin + head_.offset_of(t);
      for (int64_t i = 0; i < n_pieces(head_.tensors[t].bytes); ++i) pieces.push_back({t, i, place + i * kPieceBytes});
    }
    std::atomic<int> error{0};
    pool.run([&](Lane& lane) {
      for (int64_t next; (next = lane.next_chunk()) < static_cast<int64_t>(pieces.size()) && error == 0;) {
        const Piece& piece = pieces[static_cast<size_t>(next)];
        PackedTensor& tensor = head_.tensors[piece.tensor];
        const uint8_t* data = data_[piece.tensor] + piece.index * kPieceBytes;
        const auto n = static_cast<size_t>(std::min(kPieceBytes, tensor.bytes - piece.index * kPieceBytes));
        tensor.checksums[static_cast<size_t>(piece.index)] = checksum(data, n);
        if (const int failed = file.write(data, n, piece.place)) error = failed;
      }
    });
    if (error != 0 || head_.tensors.empty()) return error;
    const PackedTensor& last = head_.tensors.back();  // all other gaps are filled by what lies behind them
    const std::vector<uint8_t> zeros(static_cast<size_t>(aligned(last.bytes) - last.bytes));
    const int64_t end = data_begin + head_.offset_of(head_.tensors.size() - 1) + last.bytes;
    return file.write(zeros.data(), zeros.size(), end);
  }

  static std::vector<uint8_t> with_prefix(const std::vector<uint8_t>& head) {
    std::vector<uint8_t> bytes(kPrefixBytes);
    const uint64_t numbers[] = {kLayoutVersion, head.size(), checksum(head.data(), head.size())};
    std::memcpy(bytes.data(), kPackedMagic, 8);
    std::memcpy(bytes.data() + 8, numbers, sizeof(numbers));
    bytes.insert(bytes.end(), head.begin(), head.end());
    return bytes;
  }

  PackedHead head_;
  std::vector<Parameter> parameters_;  // of all programs
  std::set<std::string> names_;        // of these
  std::vector<const uint8_t*> data_;   // of head_.tensors
};

}  // namespace

void write_packed(const std::string& path, const std::vector<NamedProgram>& programs, const PackedExtras& extras,
                  ThreadPool& pool) {
  PackedWriter(programs, extras).write(path, pool);
}

}  // namespace jiffy
