// What jiffy.ops and jiffy.bench run: ops and kernels on numpy arrays.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "base/error.h"
#include "bindings/bindings.h"
#include "kernels/cpu/select.h"
#include "program/op_call.h"
#include "quant/reference.h"
#include "quant/weight.h"

namespace py = pybind11;

namespace jiffy {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Ids = std::vector<int32_t>;

std::vector<std::string> kernel_names() {
#define JIFFY_NAME(name, Args) #name,
  return {JIFFY_KERNELS(JIFFY_NAME)};
#undef JIFFY_NAME
}

// Rows of activations as a matmul with some weight reads them.
struct QuantizedRows {
  Operand operand;
  Buffer memory;

  QuantizedRows(int64_t rows, const Weight& weight) {
    const PackedMatrix& m = weight.matrix();
    if (rows < 1 || rows > INT32_MAX) {
      fail(ErrorKind::kParameter, "rows", "1 to 2147483647", std::to_string(rows));
    }
    const RowFormat format = activation_format(m.format);
    if (!format.quantized()) {
      fail(ErrorKind::kParameter, weight.name(), "a format that wants quantised rows", m.format.name());
    }
    const Value type{.width = m.cols, .format = format};
    memory = Buffer::allocate(static_cast<size_t>(rows * type.row_bytes()), "quantised activations");
    operand = {.data = memory.data(), .type = type, .rows = rows};
  }
  // float32 [rows, cols]: what they stand for, as kernels of this set have stored them.
  py::array_t<float> values(const std::string& isa) const {
    Operand stored = operand;
    stored.wide_runs = select_kernels(isa).wants_wide_runs(operand.type.format, operand.rows);
    const ActivationView view = stored.quantized();
    py::array_t<float> out({view.rows, view.cols});
    float* to = out.mutable_data();
    for (int64_t row = 0; row < view.rows; ++row) {
      for (int64_t col = 0; col < view.cols; ++col) *to++ = reference_activation(view, row, col);
    }
    return out;
  }
};

// float32 [rows, width], contiguous, or QuantizedRows; never a copy.
Operand operand_of(const py::handle& rows, const char* what) {
  if (py::isinstance<QuantizedRows>(rows)) return rows.cast<QuantizedRows&>().operand;
  if (!py::isinstance<Floats>(rows) || py::reinterpret_borrow<Floats>(rows).ndim() != 2) {
    fail(ErrorKind::kParameter, what, "contiguous float32 [rows, width]", "another object");
  }
  const auto array = py::reinterpret_borrow<Floats>(rows);
  return {.data = const_cast<float*>(array.data()), .type = Value{.width = array.shape(1)}, .rows = array.shape(0)};
}

std::shared_ptr<OpCall> make_call(Instruction at, const py::tuple& inputs, const py::tuple& outputs,
                                  const std::vector<std::pair<std::string, py::object>>& parameters, Ids token_ids,
                                  Ids positions, std::shared_ptr<RaggedKv> kv, std::vector<int64_t> counts) {
  OpCallSpec spec{.at = std::move(at),
                  .operands = {},
                  .parameters = {},
                  .token_ids = std::move(token_ids),
                  .positions = std::move(positions),
                  .kv = std::move(kv),
                  .counts = std::move(counts),
                  .owners = {}};
  for (const py::handle& x : inputs) spec.operands.push_back(operand_of(x, "input"));
  for (const py::handle& y : outputs) {
    if (py::isinstance<Floats>(y)) static_cast<void>(py::reinterpret_borrow<Floats>(y).mutable_data());  // or it throws
    spec.operands.push_back(operand_of(y, "output"));
  }
  for (const auto& [name, value] : parameters) spec.parameters.push_back(make_parameter(name, value, spec.owners));
  return std::make_shared<OpCall>(std::move(spec));
}

py::array_t<uint8_t> bytes_of(const Buffer& memory) {
  return py::array_t<uint8_t>(static_cast<py::ssize_t>(memory.size()), memory.as<uint8_t>());
}

// The sizes of x [rows, n], given that each of `others` has a number for each of its rows.
template <class... Others>
std::pair<int64_t, int64_t> sizes_of(const Floats& x, const Others&... others) {
  if (x.ndim() != 2 || (... || (others.ndim() != 1 || others.shape(0) != x.shape(0)))) {
    fail(ErrorKind::kParameter, "x", "[rows, n] beside [rows]", "other shapes");
  }
  return {x.shape(0), x.shape(1)};
}

std::shared_ptr<Work> argmax_rows(const Floats& x, py::array_t<int64_t, py::array::c_style>& indices) {
  const auto [rows, n] = sizes_of(x, indices);
  return std::make_shared<ArgmaxRows>(x.data(), rows, n, indices.mutable_data());
}

std::shared_ptr<Work> softmax_rows(const Floats& x, const Floats& max, Floats& y,
                                   py::array_t<double, py::array::c_style>& sums) {
  const auto [rows, n] = sizes_of(x, max, sums);
  if (sizes_of(y, max) != std::pair{rows, n}) fail(ErrorKind::kParameter, "y", "the shape of x", "another");
  return std::make_shared<SoftmaxRows>(x.data(), max.data(), rows, n, y.mutable_data(), sums.mutable_data());
}

// blocks: [rows, n_blocks, 2]
std::shared_ptr<Work> logit_block_rows(const Floats& x, Floats& blocks) {
  const auto [rows, n] = sizes_of(x);
  const int64_t n_blocks = (n + kLogitBlock - 1) / kLogitBlock;
  if (blocks.ndim() != 3 || blocks.shape(0) != rows || blocks.shape(1) != n_blocks || blocks.shape(2) != 2) {
    fail(ErrorKind::kParameter, "blocks", "[rows, " + std::to_string(n_blocks) + ", 2]", "another shape");
  }
  return std::make_shared<LogitBlockRows>(x.data(), rows, n, reinterpret_cast<LogitBlock*>(blocks.mutable_data()));
}

}  // namespace

void bind_ops(py::module_& m) {
  m.attr("MAX_HEAD_DIM") = kMaxHeadDim;
  m.attr("LOGIT_BLOCK") = kLogitBlock;
  m.def("kernel_names", &kernel_names, "The lines of kernels.h.");

  py::class_<QuantizedRows>(m, "QuantizedRows",
                            "Memory for activations [rows, cols] as matmuls with a weight read them.")
      .def(py::init<int64_t, const Weight&>(), py::arg("rows"), py::arg("weight"))
      .def("values", &QuantizedRows::values, py::arg("isa"), "float32 [rows, cols], as stored on this set.")
      .def_property_readonly("n_bytes", [](const QuantizedRows& q) { return q.memory.size(); });

  py::class_<RaggedKv, std::shared_ptr<RaggedKv>>(m, "RaggedKv", "The keys and values of sequences of given lengths.")
      .def(py::init([](const std::string& kv_dtype, int64_t n_kv_heads, int64_t head_dim, std::vector<int64_t> lengths,
                       int64_t state_dim) {
             return std::make_shared<RaggedKv>(parse_kv_type(kv_dtype), n_kv_heads, head_dim, std::move(lengths),
                                               state_dim);
           }),
           py::arg("kv_dtype"), py::arg("n_kv_heads"), py::arg("head_dim"), py::arg("lengths"),
           py::arg("state_dim") = 0)
      .def(
          "bytes", [](const RaggedKv& kv) { return bytes_of(kv.memory()); }, "A copy, uint8.")
      .def_property_readonly("n_bytes", [](const RaggedKv& kv) { return kv.memory().size(); });

  py::class_<Work, std::shared_ptr<Work>>(m, "Work",
                                          "What run_all does; it reads and writes the arrays it was made of.");
  py::class_<OpCall, Work, std::shared_ptr<OpCall>>(m, "OpCall", "An instruction whose operands are arrays.")
      .def(py::init(&make_call), py::arg("instruction"), py::arg("inputs"), py::arg("outputs"), py::arg("parameters"),
           py::kw_only(), py::arg("token_ids") = Ids{}, py::arg("positions") = Ids{}, py::arg("kv") = nullptr,
           py::arg("counts") = std::vector<int64_t>{}, py::keep_alive<1, 3>(), py::keep_alive<1, 4>());
  m.def("argmax_rows", &argmax_rows, py::arg("x").noconvert(), py::arg("indices").noconvert(), py::keep_alive<0, 1>(),
        py::keep_alive<0, 2>());
  m.def("softmax_rows", &softmax_rows, py::arg("x").noconvert(), py::arg("max").noconvert(), py::arg("y").noconvert(),
        py::arg("sums").noconvert(), py::keep_alive<0, 1>(), py::keep_alive<0, 2>(), py::keep_alive<0, 3>(),
        py::keep_alive<0, 4>());
  m.def("logit_block_rows", &logit_block_rows, py::arg("x").noconvert(), py::arg("blocks").noconvert(),
        py::keep_alive<0, 1>(), py::keep_alive<0, 2>());
  m.def(
      "run_all",
      [](const std::vector<std::shared_ptr<Work>>& work, ThreadPool& pool, const std::string& isa, int64_t repeats) {
        return run_all(work, repeats, pool, select_kernels(isa));
      },
      py::arg("work"), py::arg("pool"), py::arg("isa") = "auto", py::arg("repeats") = 1,
      py::call_guard<py::gil_scoped_release>(), "Does the works in turn, with all threads; returns seconds.");
}

}  // namespace jiffy
