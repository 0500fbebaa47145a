// The packed model file (packed_head.h): written whole or not at all, read by several threads, every byte checked.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/thread_pool.h"
#include "program/packed_head.h"
#include "program/program.h"

namespace jiffy {

// A program of a model, by a name that no other of its programs has.
struct NamedProgram {
  std::string name;
  std::shared_ptr<const Program> program;
  std::vector<std::pair<std::string, int>> marks;  // values with a name
};

// What goes into a file beside the programs.
struct PackedExtras {
  std::vector<std::pair<std::string, std::string>> attachments;  // name, bytes; at least one each
  int64_t context_length = 0;  // the longest that the model may be loaded with: rope tables are made for it anew
};

// Writes programs as they were traced, not fused: fusion is for whoever runs them. What several of them have as a
// parameter is stored once. Throws kFormat naming the path when the file can't be written, and then leaves what was
// there before.
void write_packed(const std::string& path, const std::vector<NamedProgram>& programs, const PackedExtras& extras,
                  ThreadPool& pool);

// Whether a file says of itself that it is a packed model, whatever else may be wrong with it.
bool is_packed(const std::string& path);

class PackedFile {
 public:
  // Reads and checks all but attachments and weights. Throws kFormat naming file and field, kUnsupported for another
  // layout version.
  explicit PackedFile(const std::string& path);

  int64_t context_length() const { return head_.context_length; }
  bool one_context() const;  // whether it may be loaded with that context alone

  bool has_attachment(const std::string& name) const;
  // Throws kFormat where there is none, or a damaged one.
  std::string attachment(const std::string& name) const;

  std::vector<std::string> attachments() const;

  // The programs for a context of so many positions, whose parameters are one list and their weights in one buffer.
  // Throws kFormat naming what is damaged, kParameter for a context that the file does not allow, kOutOfMemory.
  std::vector<NamedProgram> programs(int64_t context, ThreadPool& pool) const;

 private:
  std::string place(const std::string& field) const { return name_ + " " + field; }
  void read(void* to, size_t bytes, int64_t offset, const std::string& field) const;
  void read_head(int64_t header_bytes);
  void check_header(int64_t header_bytes, int64_t head_bytes) const;
  void read_weights(uint8_t* arena, ThreadPool& pool) const;
  Parameter parameter(const PackedParameter& p, uint8_t* arena, int64_t context) const;

  std::string name_;  // of the file, without its folder
  File file_;
  PackedHead head_;
  std::vector<int64_t> offsets_;  // of head_.tensors, from the start of the file
};

}  // namespace jiffy
