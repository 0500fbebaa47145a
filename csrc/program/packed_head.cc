#include "program/packed_head.h"

#include <cmath>
#include <set>
#include <utility>

#include "base/bytes.h"

namespace jiffy {
namespace {

using Kind = PackedParameter::Kind;

// What an item of a list takes at the least.
constexpr size_t kValueBytes = 21, kParameterBytes = 9, kInstructionBytes = 70, kMarkBytes = 8, kTensorBytes = 16,
                 kProgramBytes = 20;

void write_format(ByteWriter& w, const WeightFormat& f) {
  w.number<int32_t>(f.bits);
  w.number<int32_t>(f.group);
  w.number(static_cast<uint8_t>(f.offset));
  w.number(static_cast<uint8_t>(f.scale));
}

WeightFormat read_format(ByteReader& r, const std::string& name) {
  WeightFormat f;
  f.bits = r.number<int32_t>(name + " bits");
  f.group = r.number<int32_t>(name + " group");
  f.offset = static_cast<Offset>(r.number<uint8_t>(name + " offset kind", 0, 2));
  f.scale = static_cast<ScaleType>(r.number<uint8_t>(name + " scale type", 0, 1));
  const bool known = (f.bits == 32 && f.group == 1) || (f.bits == 16 && f.group == 2) ||
                     ((f.bits == 4 || f.bits == 8) && (f.group == 32 || f.group == 64 || f.group == 128));
  const bool plain = f.quantized() || (f.offset == Offset::kNone && f.scale == ScaleType::kF16);
  if (!known || !plain) {
    fail(ErrorKind::kFormat, r.place(name + " format"), "f32, bf16, or 4 or 8 bits in groups of 32, 64 or 128",
         std::to_string(f.bits) + " bits in groups of " + std::to_string(f.group));
  }
  return f;
}

void write_parameter(ByteWriter& w, const PackedParameter& p) {
  w.text(p.name);
  w.number(static_cast<uint8_t>(p.kind));
  if (p.kind == Kind::kRope) {
    w.number(p.rope.factor);
    w.number<uint8_t>(p.rope.sine);
    w.number<uint8_t>(p.rope.one_context);
    w.numbers(p.rope.frequencies);
    return;
  }
  for (const int64_t number : {p.rows, p.cols, p.tensor, p.offset}) w.number(number);
  if (p.kind == Kind::kFloats) return;
  w.number(p.slab_stride);
  write_format(w, p.format);
}

RopeAngles read_rope(ByteReader& r, const std::string& name) {
  RopeAngles rope;
  rope.factor = r.number<double>(name + " factor");
  rope.sine = r.flag(name + " sine");
  rope.one_context = r.flag(name + " one_context");
  rope.frequencies = r.numbers<double>(name + " frequencies");
  bool finite = std::isfinite(rope.factor) && !rope.frequencies.empty();
  for (const double frequency : rope.frequencies) finite = finite && std::isfinite(frequency);
  if (!finite) fail(ErrorKind::kFormat, r.place(name + " frequencies"), "finite numbers", "none or others");
  return rope;
}

PackedParameter read_parameter(ByteReader& r, const std::string& field) {
  PackedParameter p;
  p.name = r.text(field + " name");
  const std::string name = "parameter " + p.name;
  p.kind = static_cast<Kind>(r.number<uint8_t>(name + " kind", 0, 2));
  if (p.kind == Kind::kRope) {
    p.rope = read_rope(r, name);
    p.cols = static_cast<int64_t>(p.rope.frequencies.size());
    return p;
  }
  p.rows = r.number<int64_t>(name + " rows", 1, INT32_MAX);
  p.cols = r.number<int64_t>(name + " cols", 1, INT32_MAX);
  p.tensor = r.number<int64_t>(name + " tensor", 0, UINT32_MAX);
  p.offset = r.number<int64_t>(name + " offset", 0, INT64_MAX);
  if (p.kind == Kind::kFloats) return p;
  p.slab_stride = r.number<int64_t>(name + " slab_stride", kLineBytes, INT64_MAX);
  p.format = read_format(r, name);
  return p;
}

void write_instruction(ByteWriter& w, const Instruction& at) {
  w.text(op(at.op).name);
  for (const auto* indices : {&at.inputs, &at.outputs, &at.parameters}) w.numbers(*indices);
  const Attributes& a = at.attributes;
  w.number(a.eps);
  w.number(a.scale);
  for (const int64_t number : {a.layer, a.n_heads, a.n_kv_heads, a.head_dim, a.window}) w.number(number);
  w.number<uint8_t>(a.causal);
  w.number<uint8_t>(a.tanh);
  w.number<uint8_t>(a.cross);
  w.number(static_cast<uint8_t>(a.indices));
  w.number(static_cast<uint8_t>(a.function));
  w.number(static_cast<uint8_t>(a.pooling));
}

OpKind read_op(ByteReader& r, const std::string& field) {
  const std::string name = r.text(field + " op");
  const std::optional<OpKind> kind = op_named(name);
  if (!kind) fail(ErrorKind::kFormat, r.place(field + " op"), "an op of a program", "\"" + name + "\"");
  return *kind;
}

Instruction read_instruction(ByteReader& r, const std::string& field) {
  Instruction at{.op = read_op(r, field), .inputs = {}, .outputs = {}, .parameters = {}, .attributes = {}};
  at.inputs = r.numbers<int>(field + " inputs");
  at.outputs = r.numbers<int>(field + " outputs");
  at.parameters = r.numbers<int>(field + " parameters");
  Attributes& a = at.attributes;
  a.eps = r.number<float>(field + " eps");
  a.scale = r.number<float>(field + " scale");
  a.layer = r.number<int64_t>(field + " layer");
  a.n_heads = r.number<int64_t>(field + " n_heads");
  a.n_kv_heads = r.number<int64_t>(field + " n_kv_heads");
  a.head_dim = r.number<int64_t>(field + " head_dim");
  a.window = r.number<int64_t>(field + " window");
  a.causal = r.flag(field + " causal");
  a.tanh = r.flag(field + " tanh");
  a.cross = r.flag(field + " cross");
  a.indices = static_cast<Indices>(r.number<uint8_t>(field + " indices", 0, 2));
  a.function = static_cast<Function>(r.number<uint8_t>(field + " function", 0, 2));
  a.pooling = static_cast<Pooling>(r.number<uint8_t>(field + " pooling", 0, 3));
  return at;
}

Value read_value(ByteReader& r, const std::string& field) {
  Value value;
  value.space = static_cast<Space>(r.number<uint8_t>(field + " space", 0, 1));
  value.width = r.number<int64_t>(field + " width", 1, INT32_MAX);
  value.format.bits = r.number<int32_t>(field + " bits");
  value.format.group = r.number<int64_t>(field + " group");
  value.format.powers = r.flag(field + " powers");
  return value;
}

PackedTensor read_tensor(ByteReader& r, const std::string& field) {
  PackedTensor tensor;
  tensor.name = r.text(field + " name");
  const std::string name = "tensor " + tensor.name;
  tensor.bytes = r.number<int64_t>(name + " bytes", 1, INT64_MAX / 2);
  tensor.checksums = r.numbers<uint64_t>(name + " checksums");
  const auto expected = static_cast<size_t>(n_pieces(tensor.bytes));
  if (tensor.checksums.size() != expected) {
    fail(ErrorKind::kFormat, r.place(name + " checksums"), std::to_string(expected),
         std::to_string(tensor.checksums.size()));
  }
  return tensor;
}

// Reads a list whose items are called "what 0", "what 1", ...
template <class Item>
std::vector<Item> read_list(ByteReader& r, const std::string& what, size_t item_bytes,
                            Item (*read)(ByteReader&, const std::string&)) {
  std::vector<Item> items;
  const size_t n = r.count(what + "s", item_bytes);
  for (size_t i = 0; i < n; ++i) items.push_back(read(r, what + " " + std::to_string(i)));
  return items;
}

std::pair<std::string, int> read_mark(ByteReader& r, const std::string& field) {
  std::string name = r.text(field + " name");
  return {std::move(name), r.number<int>(field + " value")};
}

PackedProgram read_program(ByteReader& r, const std::string& field) {
  PackedProgram program;
  program.name = r.text(field + " name");
  const std::string own = program.name + " ";
  program.values = read_list(r, own + "value", kValueBytes, read_value);
  program.instructions = read_list(r, own + "instruction", kInstructionBytes, read_instruction);
  program.marks = read_list(r, own + "mark", kMarkBytes, read_mark);
  program.result = r.number<int32_t>(own + "result");
  for (const auto& [name, value] : program.marks) {
    if (value >= 0 && std::cmp_less(value, program.values.size())) continue;
    fail(ErrorKind::kFormat, r.place(own + "mark " + name), "a value below " + std::to_string(program.values.size()),
         std::to_string(value));
  }
  return program;
}

void write_program(ByteWriter& w, const PackedProgram& program) {
  w.text(program.name);
  w.number(static_cast<uint32_t>(program.values.size()));
  for (const Value& value : program.values) {
    w.number(static_cast<uint8_t>(value.space));
    w.number(value.width);
    w.number<int32_t>(value.format.bits);
    w.number(value.format.group);
    w.number(static_cast<uint8_t>(value.format.powers));
  }
  w.number(static_cast<uint32_t>(program.instructions.size()));
  for (const Instruction& at : program.instructions) write_instruction(w, at);
  w.number(static_cast<uint32_t>(program.marks.size()));
  for (const auto& [name, value] : program.marks) {
    w.text(name);
    w.number<int32_t>(value);
  }
  w.number<int32_t>(program.result);
}

// All of a parameter lies within its tensor. Divisions, because products of what a file says may overflow.
void check_place(const ByteReader& r, const PackedHead& head, const PackedParameter& p) {
  const auto broken = [&](const char* field, const std::string& expected, int64_t found) {
    fail(ErrorKind::kFormat, r.place("parameter " + p.name + " " + field), expected, std::to_string(found));
  };
  const auto n = static_cast<int64_t>(head.tensors.size());
  if (p.tensor < head.n_attachments || p.tensor >= n) {
    broken("tensor", "a tensor of weights, " + std::to_string(head.n_attachments) + " to " + std::to_string(n - 1),
           p.tensor);
  }
  const int64_t bytes = head.tensors[static_cast<size_t>(p.tensor)].bytes;
  if (p.offset % kLineBytes != 0 || p.offset > bytes) {
    broken("offset", "a multiple of 64 up to " + std::to_string(bytes), p.offset);
  }
  const int64_t room = bytes - p.offset;
  if (p.kind == Kind::kFloats) {
    if (p.rows > room / static_cast<int64_t>(sizeof(float)) / p.cols) {
      broken("rows", std::to_string(p.cols) + " floats each within " + std::to_string(room) + " bytes", p.rows);
    }
    return;
  }
  const int64_t slab = slab_bytes(p.format, p.cols);
  if (p.slab_stride % kLineBytes != 0 || p.slab_stride < slab) {
    broken("slab_stride", "a multiple of 64 from " + std::to_string(slab), p.slab_stride);
  }
  if (slab > room || n_slabs(p.rows) - 1 > (room - slab) / p.slab_stride) {
    broken("rows", "slabs of " + std::to_string(slab) + " bytes within " + std::to_string(room), p.rows);
  }
}

void check_head(const ByteReader& r, const PackedHead& head) {
  for (const PackedParameter& p : head.parameters) {
    if (p.kind != Kind::kRope) check_place(r, head, p);
  }
  std::set<std::string> names;
  for (const PackedProgram& program : head.programs) {
    if (names.insert(program.name).second) continue;
    fail(ErrorKind::kFormat, r.place("programs"), "one of a name", "two, " + program.name);
  }
}

// Of printable ASCII (ByteReader::text).
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

std::string tensor_text(const std::string& name, int64_t begin, int64_t bytes) {
  return "," + quoted(name) + ":{\"dtype\":\"U8\",\"shape\":[" + std::to_string(bytes) + "],\"data_offsets\":[" +
         std::to_string(begin) + "," + std::to_string(begin + bytes) + "]}";
}

}  // namespace

int64_t PackedHead::offset_of(size_t tensor) const {
  int64_t offset = 0;
  for (size_t i = 0; i < tensor; ++i) offset += aligned(tensors[i].bytes);
  return offset;
}

std::vector<uint8_t> head_bytes(const PackedHead& head) {
  ByteWriter w;
  w.number(static_cast<uint32_t>(head.parameters.size()));
  for (const PackedParameter& p : head.parameters) write_parameter(w, p);
  w.number(static_cast<uint32_t>(head.programs.size()));
  for (const PackedProgram& program : head.programs) write_program(w, program);
  w.number(head.context_length);
  w.number(static_cast<uint32_t>(head.tensors.size()));
  for (const PackedTensor& tensor : head.tensors) {
    w.text(tensor.name);
    w.number(tensor.bytes);
    w.numbers(tensor.checksums);
  }
  w.number(head.n_attachments);
  return w.bytes();
}

PackedHead parse_head(const uint8_t* data, size_t size, const std::string& where) {
  ByteReader r(data, size, where);
  PackedHead head;
  head.parameters = read_list(r, "parameter", kParameterBytes, read_parameter);
  head.programs = read_list(r, "program", kProgramBytes, read_program);
  head.context_length = r.number<int64_t>("context_length", 1, INT32_MAX);
  head.tensors = read_list(r, "tensor", kTensorBytes, read_tensor);
  head.n_attachments = r.number<int64_t>("n_attachments", 0, static_cast<int64_t>(head.tensors.size()));
  r.end();
  check_head(r, head);
  return head;
}

std::vector<std::string> header_pieces(const PackedHead& head, int64_t head_bytes) {
  std::vector<std::string> pieces;
  pieces.push_back("{\"__metadata__\":{\"format\":\"jiffy\",\"layout\":\"" + std::to_string(kLayoutVersion) + "\"}");
  int64_t begin = 0;
  const auto add = [&](const std::string& name, int64_t bytes) {
    pieces.push_back(tensor_text(name, begin, aligned(bytes)));
    begin += aligned(bytes);
  };
  add("program", kPrefixBytes + head_bytes);
  for (const PackedTensor& tensor : head.tensors) add(tensor.name, tensor.bytes);
  pieces.push_back("}");
  return pieces;
}

}  // namespace jiffy
