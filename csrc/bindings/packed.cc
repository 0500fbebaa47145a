#include <pybind11/stl.h>

#include "base/checksum.h"
#include "bindings/bindings.h"
#include "program/packed_file.h"

namespace py = pybind11;

namespace jiffy {
namespace {

using Marks = std::vector<std::pair<std::string, int>>;
using Attachments = std::vector<std::pair<std::string, std::string>>;
using Programs = std::vector<std::tuple<std::string, std::shared_ptr<Program>, Marks>>;

uint64_t checksum_of(const py::bytes& data) {
  const std::string_view view = data;
  return checksum(view.data(), view.size());
}

void write(const std::string& path, const Programs& programs, Attachments attachments, int64_t context_length,
           ThreadPool& pool) {
  std::vector<NamedProgram> named;
  for (const auto& [name, program, marks] : programs) named.push_back({name, program, marks});
  write_packed(path, named, {std::move(attachments), context_length}, pool);
}

Programs programs(const PackedFile& file, int64_t context, ThreadPool& pool) {
  Programs listed;
  for (NamedProgram& one : file.programs(context, pool)) {
    listed.emplace_back(std::move(one.name), std::const_pointer_cast<Program>(one.program), std::move(one.marks));
  }
  return listed;
}

}  // namespace

void bind_packed(py::module_& m) {
  m.attr("LAYOUT_VERSION") = kLayoutVersion;
  m.attr("PIECE_BYTES") = kPieceBytes;
  m.def("checksum", &checksum_of, py::arg("data"), "The 64-bit checksum of packed files.");

  const py::call_guard<py::gil_scoped_release> without_gil;
  m.def(
      "is_packed", [](const std::string& path) { return is_packed(path); }, py::arg("path"), without_gil,
      "Whether a file says of itself that it is a packed model. Paths are bytes as os.fsencode gives them.");
  m.def("write_packed", &write, py::arg("path"), py::arg("programs"), py::arg("attachments"), py::arg("context_length"),
        py::arg("pool"), without_gil,
        "Writes programs that are not fused, each with its name and the names of its values; the file appears whole or "
        "not at all.");

  py::class_<PackedFile, std::shared_ptr<PackedFile>>(m, "PackedFile", "A packed model file whose head is read.")
      .def(py::init<const std::string&>(), py::arg("path"), without_gil)
      .def("has", &PackedFile::has_attachment, py::arg("name"))
      .def(
          "attachment",
          [](const PackedFile& file, const std::string& name) { return py::bytes(file.attachment(name)); },
          py::arg("name"))
      .def(
          "programs", &programs, py::arg("context"), py::arg("pool"), without_gil,
          "The programs for a context of so many positions, as write_packed() takes them, over one list of parameters.")
      .def_property_readonly("attachments", &PackedFile::attachments)
      .def_property_readonly("context_length", &PackedFile::context_length, "The longest that it can be loaded with.")
      .def_property_readonly("one_context", &PackedFile::one_context, "Whether it can be loaded with that one alone.");
}

}  // namespace jiffy
