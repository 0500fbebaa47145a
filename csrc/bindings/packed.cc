#include <pybind11/stl.h>

#include "base/checksum.h"
#include "bindings/bindings.h"
#include "program/packed_file.h"

namespace py = pybind11;

namespace jiffy {
namespace {

using Marks = std::vector<std::pair<std::string, int>>;
using Attachments = std::vector<std::pair<std::string, std::string>>;

uint64_t checksum_of(const py::bytes& data) {
  const std::string_view view = data;
  return checksum(view.data(), view.size());
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
  m.def(
      "write_packed",
      [](const std::string& path, const Program& program, Marks marks, Attachments attachments, int64_t context_length,
         ThreadPool& pool) {
        const PackedExtras extras{std::move(marks), std::move(attachments), context_length};
        write_packed(path, program, extras, pool);
      },
      py::arg("path"), py::arg("program"), py::arg("marks"), py::arg("attachments"), py::arg("context_length"),
      py::arg("pool"), without_gil, "Writes a program that is not fused; the file appears whole or not at all.");

  py::class_<PackedFile, std::shared_ptr<PackedFile>>(m, "PackedFile", "A packed model file whose head is read.")
      .def(py::init<const std::string&>(), py::arg("path"), without_gil)
      .def("has", &PackedFile::has_attachment, py::arg("name"))
      .def(
          "attachment",
          [](const PackedFile& file, const std::string& name) { return py::bytes(file.attachment(name)); },
          py::arg("name"))
      .def("program", &PackedFile::program, py::arg("context"), py::arg("pool"), without_gil,
           "The program for a context of so many positions, with its weights.")
      .def_property_readonly("marks", &PackedFile::marks)
      .def_property_readonly("context_length", &PackedFile::context_length, "The longest that it can be loaded with.")
      .def_property_readonly("one_context", &PackedFile::one_context, "Whether it can be loaded with that one alone.");
}

}  // namespace jiffy
