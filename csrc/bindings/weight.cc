#include "quant/weight.h"

#include <pybind11/numpy.h>
#include <pybind11/operators.h>
#include <pybind11/stl.h>

#include "base/error.h"
#include "bindings/bindings.h"
#include "quant/activations.h"
#include "quant/reference.h"

namespace py = pybind11;

namespace jiffy {
namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

WeightFormat format_of(const std::string& name, const std::string& tensor, bool f32_scales) {
  WeightFormat format = parse_format(name, tensor);
  if (f32_scales && format.quantized()) format.scale = ScaleType::kF32;
  return format;
}

void pack_rows(Weight& w, int64_t begin, const Bytes& rows, const std::string& type, ThreadPool& pool) {
  const SourceType source = parse_source(type, w.name());
  const int64_t row_bytes = source_row_bytes(source, w.matrix().cols);
  if (rows.ndim() != 2 || rows.shape(1) != row_bytes) {
    fail(ErrorKind::kFormat, w.name(), "rows of " + std::to_string(row_bytes) + " bytes",
         rows.ndim() == 2 ? std::to_string(rows.shape(1)) : std::to_string(rows.ndim()) + " dimensions");
  }
  const uint8_t* data = rows.data();
  const int64_t n_rows = rows.shape(0);
  const py::gil_scoped_release release;
  w.pack_rows(begin, n_rows, data, source, pool);
}

void pack_file(Weight& w, int64_t begin, int64_t n_rows, const std::string& path, int64_t offset,
               const std::string& type, ThreadPool& pool) {
  w.pack_file(begin, n_rows, File::open(path), offset, parse_source(type, w.name()), pool);
}

FloatArray decode_rows(const Bytes& rows, const std::string& type, int64_t cols) {
  const SourceType source = parse_source(type, "type");
  if (rows.ndim() != 2 || cols < 1 || (is_quantized(source) && cols % kSourceBlock != 0) ||
      rows.shape(1) != source_row_bytes(source, cols)) {
    fail(ErrorKind::kFormat, "rows", "uint8 rows of " + std::to_string(cols) + " values of " + type, "another shape");
  }
  FloatArray out({rows.shape(0), static_cast<py::ssize_t>(cols)});
  for (py::ssize_t r = 0; r < rows.shape(0); ++r) decode_row(source, rows.data(r), cols, out.mutable_data(r));
  return out;
}

FloatArray unpack(const Weight& w) {
  const std::vector<float> values = reference_unpack(w.matrix());
  FloatArray out({w.matrix().rows, w.matrix().cols});
  std::copy(values.begin(), values.end(), out.mutable_data());
  return out;
}

}  // namespace

void bind_weight(py::module_& m) {
  m.def("format_names", &format_names, "The weight formats that Weight packs.");
  m.def(
      "natural_format", [](const std::string& type) { return natural_format(parse_source(type, "type")).name(); },
      py::arg("type"), "The format that holds tensors of a file's type without loss.");

  m.def("decode_rows", &decode_rows, py::arg("rows"), py::arg("type"), py::arg("cols"),
        "float32 [n, cols] of uint8 rows [n, row_bytes] of a file's type, exactly as it defines them.");

  py::class_<RowFormat>(m, "RowFormat", "How rows of activations are stored: f32, bf16, or int8 in groups (q8).")
      .def(py::init<>())
      .def(py::self == py::self)
      .def_readonly("bits", &RowFormat::bits)
      .def_readonly("group", &RowFormat::group)
      .def_readonly("powers", &RowFormat::powers)
      .def("__hash__", [](const RowFormat& f) { return py::hash(py::str(f.name())); })
      .def("__repr__", &RowFormat::name);

  py::class_<Arena>(m, "Arena", "Memory in huge pages that small weights share.").def(py::init<>());

  py::class_<Weight, std::shared_ptr<Weight>>(m, "Weight", "A packed matrix [rows, cols].")
      .def(py::init([](const std::string& name, int64_t rows, int64_t cols, const std::string& format, bool f32_scales,
                       Arena* arena) {
             return Weight::create(name, rows, cols, format_of(format, name, f32_scales), arena);
           }),
           py::arg("name"), py::arg("rows"), py::arg("cols"), py::arg("format"), py::arg("f32_scales") = false,
           py::arg("arena") = nullptr)
      .def_static(
          "pair",
          [](const std::string& first, const std::string& second, int64_t rows, int64_t cols, const std::string& format,
             bool f32_scales, Arena* arena) {
            return Weight::create_pair(first, second, rows, cols, format_of(format, first, f32_scales), arena);
          },
          py::arg("first"), py::arg("second"), py::arg("rows"), py::arg("cols"), py::arg("format"),
          py::arg("f32_scales") = false, py::arg("arena") = nullptr,
          "Two matrices of one shape, interleaved in memory for a kernel that reads both.")
      .def("pack_rows", &pack_rows, py::arg("begin"), py::arg("rows"), py::arg("type"), py::arg("pool"),
           "Packs uint8 rows [n, row_bytes] of a file's type from row `begin`, a multiple of 16.")
      .def("pack_file", &pack_file, py::arg("begin"), py::arg("n_rows"), py::arg("path"), py::arg("offset"),
           py::arg("type"), py::arg("pool"), py::call_guard<py::gil_scoped_release>(),
           "The same from a file, in which row `begin` lies at `offset`; its path is bytes as os.fsencode gives them.")
      .def("unpack", &unpack, "float32 [rows, cols], by the slow reference.")
      .def_property_readonly("name", &Weight::name)
      .def_property_readonly("format", [](const Weight& w) { return w.matrix().format.name(); })
      .def_property_readonly(
          "activations", [](const Weight& w) { return activation_format(w.matrix().format); },
          "The RowFormat in which a matmul wants x.")
      .def_property_readonly("rows", [](const Weight& w) { return w.matrix().rows; })
      .def_property_readonly("cols", [](const Weight& w) { return w.matrix().cols; })
      .def_property_readonly("n_bytes", &Weight::bytes)
      .def_property_readonly("fits_f16_headers", &Weight::fits_f16_headers);
}

}  // namespace jiffy
