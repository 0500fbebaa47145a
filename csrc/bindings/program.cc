#include "program/program.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "base/buffer.h"
#include "base/error.h"
#include "bindings/bindings.h"
#include "quant/weight.h"

namespace py = pybind11;

namespace jiffy {
namespace {

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

// A trace's parameters: (name, Weight) or (name, float array [cols] or [rows, cols]); arrays are copied.
void add_parameter(ProgramSpec& spec, const std::string& name, const py::object& value) {
  Parameter p;
  p.name = name;
  if (py::isinstance<Weight>(value)) {
    const auto weight = value.cast<std::shared_ptr<Weight>>();
    p.matrix = weight->matrix();
    p.rows = p.matrix.rows;
    p.cols = p.matrix.cols;
    spec.owners.push_back(weight);
  } else {
    const auto array = FloatArray::ensure(value);
    if (!array || array.ndim() < 1 || array.ndim() > 2)
      fail(ErrorKind::kFormat, name, "an array of one or two dimensions", "another object");
    p.rows = array.ndim() == 2 ? array.shape(0) : 1;
    p.cols = array.shape(array.ndim() - 1);
    auto copy = std::make_shared<Buffer>(Buffer::allocate(static_cast<size_t>(array.nbytes()), name));
    std::copy(array.data(), array.data() + array.size(), copy->as<float>());
    p.floats = copy->as<float>();
    spec.owners.push_back(copy);
  }
  spec.parameters.push_back(std::move(p));
}

std::shared_ptr<Program> build(std::vector<Value> values,
                               const std::vector<std::pair<std::string, py::object>>& parameters,
                               std::vector<Instruction> instructions, int result, int64_t context_length) {
  ProgramSpec spec{.values = std::move(values),
                   .parameters = {},
                   .instructions = std::move(instructions),
                   .result = result,
                   .context_length = context_length,
                   .owners = {}};
  for (const auto& [name, value] : parameters) add_parameter(spec, name, value);
  return std::make_shared<Program>(std::move(spec));
}

}  // namespace

void bind_program(py::module_& m) {
  py::enum_<Space>(m, "Space").value("tokens", Space::kTokens).value("outputs", Space::kOutputs);

  py::enum_<OpKind>(m, "OpKind")
      .value("embedding", OpKind::kEmbedding)
      .value("rms_norm", OpKind::kRmsNorm)
      .value("quantize", OpKind::kQuantize)
      .value("matmul", OpKind::kMatmul)
      .value("rope", OpKind::kRope)
      .value("kv_write", OpKind::kKvWrite)
      .value("attention", OpKind::kAttention)
      .value("add", OpKind::kAdd)
      .value("silu_mul", OpKind::kSiluMul)
      .value("select", OpKind::kSelect);

  py::class_<Value>(m, "Value")
      .def(py::init([](Space space, int64_t width, int64_t group) { return Value{space, width, group}; }),
           py::arg("space"), py::arg("width"), py::arg("group") = 0)
      .def_readonly("group", &Value::group);

  py::class_<Attributes>(m, "Attributes")
      .def_readonly("eps", &Attributes::eps)
      .def_readonly("scale", &Attributes::scale)
      .def_readonly("layer", &Attributes::layer)
      .def_readonly("n_heads", &Attributes::n_heads)
      .def_readonly("n_kv_heads", &Attributes::n_kv_heads)
      .def_readonly("head_dim", &Attributes::head_dim);

  py::class_<Instruction>(m, "Instruction")
      .def(py::init([](OpKind op, std::vector<int> inputs, std::vector<int> outputs, std::vector<int> parameters,
                       float eps, float scale, int64_t layer, int64_t n_heads, int64_t n_kv_heads, int64_t head_dim) {
             return Instruction{op, std::move(inputs), std::move(outputs), std::move(parameters),
                                Attributes{eps, scale, layer, n_heads, n_kv_heads, head_dim}};
           }),
           py::arg("op"), py::arg("inputs"), py::arg("outputs"), py::arg("parameters"), py::kw_only(),
           py::arg("eps") = 0.0f, py::arg("scale") = 0.0f, py::arg("layer") = 0, py::arg("n_heads") = 0,
           py::arg("n_kv_heads") = 0, py::arg("head_dim") = 0)
      .def_property_readonly("op", [](const Instruction& at) { return op(at.op).name; })
      .def_readonly("inputs", &Instruction::inputs)
      .def_readonly("outputs", &Instruction::outputs)
      .def_readonly("parameters", &Instruction::parameters)
      .def_readonly("attributes", &Instruction::attributes);

  py::class_<Program, std::shared_ptr<Program>>(m, "Program")
      .def(py::init(&build), py::arg("values"), py::arg("parameters"), py::arg("instructions"), py::arg("result"),
           py::arg("context_length"))
      .def(
          "fused", [](const Program& program) { return std::make_shared<Program>(fuse(program)); },
          "The same results, bit for bit, in fewer instructions.")
      .def_property_readonly("ops",
                             [](const Program& program) {
                               std::vector<std::string> names;
                               for (const Instruction& at : program.instructions()) names.emplace_back(op(at.op).name);
                               return names;
                             })
      .def_property_readonly("vocab_size", &Program::vocab_size)
      .def_property_readonly("context_length", &Program::context_length);
}

}  // namespace jiffy
