#include "quant/weight.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "base/error.h"
#include "bindings/bindings.h"
#include "kernels/cpu/select.h"
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

// y = x w^T for each weight in turn, in one parallel region; y of the last stays.
FloatArray matmul(const std::vector<std::shared_ptr<Weight>>& weights, const FloatArray& x, ThreadPool& pool,
                  const std::string& isa) {
  if (weights.empty()) fail(ErrorKind::kParameter, "weights", "at least one", "none");
  const PackedMatrix& m = weights.front()->matrix();
  for (const auto& w : weights) {
    if (w->matrix().rows != m.rows || w->matrix().cols != m.cols || !(w->matrix().format == m.format)) {
      fail(ErrorKind::kParameter, w->name(), "the shape and format of " + weights.front()->name(), "another");
    }
  }
  if (x.ndim() != 2 || x.shape(1) != m.cols || x.shape(0) < 1) {
    fail(ErrorKind::kParameter, "x", "[rows, " + std::to_string(m.cols) + "]",
         std::to_string(x.ndim()) + " dimensions or other cols");
  }
  const Kernels& kernels = select_kernels(isa);
  const int64_t rows = x.shape(0);
  FloatArray y({rows, m.rows});
  const float* from = x.data();
  MatmulArgs args{
      .weight = m, .up = {}, .x = {}, .x_f32 = from, .rows = rows, .y = y.mutable_data(), .y_stride = m.rows};
  const py::gil_scoped_release release;
  const int64_t bytes = m.format.quantized() ? rows * activation_row_bytes(m.cols, m.format.group) : 0;
  Buffer memory = Buffer::allocate(static_cast<size_t>(bytes), "quantised activations");
  if (m.format.quantized()) args.x = activation_view(memory.data(), rows, m.cols, m.format.group);
  const int64_t slabs = n_slabs(m.rows), piece = std::max<int64_t>(1, slabs / (int64_t{8} * pool.size()));
  pool.run([&](Lane& lane) {
    for (int64_t r; m.format.quantized() && (r = lane.next_chunk()) < rows;) kernels.quantize({from, args.x, r, r + 1});
    MatmulArgs mine = args;
    for (const auto& w : weights) {
      lane.barrier();
      mine.weight = w->matrix();
      for (int64_t begin; (begin = lane.next_chunk() * piece) < slabs;) {
        mine.begin = begin;
        mine.end = std::min(begin + piece, slabs);
        kernels.matmul(mine);
      }
    }
  });
  return y;
}

}  // namespace

void bind_weight(py::module_& m) {
  m.def("format_names", &format_names, "The weight formats that Weight packs.");
  m.def(
      "natural_format", [](const std::string& type) { return natural_format(parse_source(type, "type")).name(); },
      py::arg("type"), "The format that holds tensors of a file's type without loss.");

  m.def("decode_rows", &decode_rows, py::arg("rows"), py::arg("type"), py::arg("cols"),
        "float32 [n, cols] of uint8 rows [n, row_bytes] of a file's type, exactly as it defines them.");

  py::class_<Weight, std::shared_ptr<Weight>>(m, "Weight", "A packed matrix [rows, cols].")
      .def(
          py::init([](const std::string& name, int64_t rows, int64_t cols, const std::string& format, bool f32_scales) {
            return Weight::create(name, rows, cols, format_of(format, name, f32_scales));
          }),
          py::arg("name"), py::arg("rows"), py::arg("cols"), py::arg("format"), py::arg("f32_scales") = false)
      .def_static(
          "pair",
          [](const std::string& first, const std::string& second, int64_t rows, int64_t cols, const std::string& format,
             bool f32_scales) {
            return Weight::create_pair(first, second, rows, cols, format_of(format, first, f32_scales));
          },
          py::arg("first"), py::arg("second"), py::arg("rows"), py::arg("cols"), py::arg("format"),
          py::arg("f32_scales") = false,
          "Two matrices of one shape, interleaved in memory for a kernel that reads both.")
      .def("pack_rows", &pack_rows, py::arg("begin"), py::arg("rows"), py::arg("type"), py::arg("pool"),
           "Packs uint8 rows [n, row_bytes] of a file's type from row `begin`, a multiple of 16.")
      .def("unpack", &unpack, "float32 [rows, cols], by the slow reference.")
      .def_property_readonly("name", &Weight::name)
      .def_property_readonly("format", [](const Weight& w) { return w.matrix().format.name(); })
      .def_property_readonly(
          "group", [](const Weight& w) { return w.matrix().format.quantized() ? w.matrix().format.group : 0; })
      .def_property_readonly("rows", [](const Weight& w) { return w.matrix().rows; })
      .def_property_readonly("cols", [](const Weight& w) { return w.matrix().cols; })
      .def_property_readonly("n_bytes", &Weight::bytes)
      .def_property_readonly("fits_f16_headers", &Weight::fits_f16_headers);

  m.def("matmul", &matmul, py::arg("weights"), py::arg("x"), py::arg("pool"), py::arg("isa") = "auto",
        "x w^T for each weight of a list in turn, x float32 [n, cols]; returns that of the last, float32 [n, rows]. "
        "Integer formats quantise x in groups of their own.");
}

}  // namespace jiffy
