#include "program/program.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "base/buffer.h"
#include "base/error.h"
#include "bindings/bindings.h"
#include "ops/rope_table.h"
#include "quant/weight.h"

namespace py = pybind11;

namespace jiffy {
namespace {

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

std::shared_ptr<Program> build(std::vector<Value> values,
                               const std::vector<std::pair<std::string, py::object>>& parameters,
                               std::vector<Instruction> instructions, int result, int64_t context_length) {
  ProgramSpec spec{.values = std::move(values),
                   .parameters = {},
                   .instructions = std::move(instructions),
                   .result = result,
                   .context_length = context_length,
                   .owners = {}};
  for (const auto& [name, value] : parameters) spec.parameters.push_back(make_parameter(name, value, spec.owners));
  return std::make_shared<Program>(std::move(spec));
}

// The other way round: what make_parameter() would take.
py::list parameters(const std::shared_ptr<const Program>& program) {
  py::list list;
  for (const Parameter& p : program->parameters()) {
    py::object value;
    if (p.rope != nullptr) {
      value = py::cast(std::const_pointer_cast<RopeTable>(p.rope));
    } else if (p.matrix.data != nullptr) {
      value = py::cast(Weight::view(p.name, p.matrix, program));
    } else if (p.rows == 1) {
      value = py::array_t<float>(p.cols, p.floats);
    } else {
      value = py::array_t<float>({p.rows, p.cols}, p.floats);
    }
    list.append(py::make_tuple(p.name, std::move(value)));
  }
  return list;
}

std::shared_ptr<RopeTable> make_rope_table(std::vector<double> frequencies, int64_t context, double factor, bool sine,
                                           bool one_context) {
  return std::make_shared<RopeTable>(RopeAngles{std::move(frequencies), factor, sine, one_context}, context);
}

}  // namespace

Parameter make_parameter(const std::string& name, const py::object& value,
                         std::vector<std::shared_ptr<const void>>& owners) {
  Parameter p;
  p.name = name;
  if (py::isinstance<Weight>(value)) {
    const auto weight = value.cast<std::shared_ptr<Weight>>();
    p.matrix = weight->matrix();
    p.rows = p.matrix.rows;
    p.cols = p.matrix.cols;
    owners.push_back(weight);
  } else if (py::isinstance<RopeTable>(value)) {
    p.rope = value.cast<std::shared_ptr<RopeTable>>();
    p.floats = p.rope->data();
    p.rows = p.rope->rows();
    p.cols = p.rope->cols();
  } else {
    const auto array = FloatArray::ensure(value);
    if (!array || array.ndim() < 1 || array.ndim() > 2)
      fail(ErrorKind::kFormat, name, "an array of one or two dimensions", "another object");
    p.rows = array.ndim() == 2 ? array.shape(0) : 1;
    p.cols = array.shape(array.ndim() - 1);
    auto copy = std::make_shared<Buffer>(Buffer::allocate(static_cast<size_t>(array.nbytes()), name));
    std::copy(array.data(), array.data() + array.size(), copy->as<float>());
    p.floats = copy->as<float>();
    owners.push_back(copy);
  }
  return p;
}

namespace {

void bind_names(py::module_& m) {
  py::enum_<Space>(m, "Space").value("tokens", Space::kTokens).value("outputs", Space::kOutputs);

  py::enum_<OpKind>(m, "OpKind")
      .value("embedding", OpKind::kEmbedding)
      .value("rms_norm", OpKind::kRmsNorm)
      .value("layer_norm", OpKind::kLayerNorm)
      .value("quantize", OpKind::kQuantize)
      .value("matmul", OpKind::kMatmul)
      .value("rope", OpKind::kRope)
      .value("kv_write", OpKind::kKvWrite)
      .value("attention", OpKind::kAttention)
      .value("add", OpKind::kAdd)
      .value("silu_mul", OpKind::kSiluMul)
      .value("gelu", OpKind::kGelu)
      .value("select", OpKind::kSelect)
      .value("mul", OpKind::kMul)
      .value("activation", OpKind::kActivation)
      .value("pool", OpKind::kPool)
      .value("ssru", OpKind::kSsru)
      .value("rotate_quantize", OpKind::kRotateQuantize)
      .value("rms_norm_quantize", OpKind::kRmsNormQuantize);

  py::enum_<Indices>(m, "Indices")
      .value("tokens", Indices::kTokens)
      .value("types", Indices::kTypes)
      .value("positions", Indices::kPositions);
  py::enum_<Function>(m, "Function")
      .value("relu", Function::kRelu)
      .value("tanh", Function::kTanh)
      .value("silu", Function::kSilu);
  py::enum_<Pooling>(m, "Pooling")
      .value("mean", Pooling::kMean)
      .value("max", Pooling::kMax)
      .value("first", Pooling::kFirst)
      .value("last", Pooling::kLast);
}

void bind_rope_table(py::module_& m) {
  py::class_<RopeTable, std::shared_ptr<RopeTable>>(
      m, "RopeTable", py::buffer_protocol(),
      "factor * cos (or sin) of position * frequency: a buffer of float32 [context, head_dim / 2].")
      .def(py::init(&make_rope_table), py::arg("frequencies"), py::arg("context"), py::kw_only(), py::arg("factor"),
           py::arg("sine"), py::arg("one_context"), py::call_guard<py::gil_scoped_release>())
      .def_buffer([](RopeTable& t) {
        const auto item = static_cast<py::ssize_t>(sizeof(float));
        return py::buffer_info(const_cast<float*>(t.data()), {t.rows(), t.cols()}, {t.cols() * item, item},
                               /*readonly=*/true);
      });
}

void bind_values(py::module_& m) {
  py::class_<Value>(m, "Value")
      .def(py::init([](Space space, int64_t width, RowFormat format) { return Value{space, width, format}; }),
           py::arg("space"), py::arg("width"), py::arg("format"))
      .def_readonly("space", &Value::space)
      .def_readonly("width", &Value::width)
      .def_readonly("format", &Value::format);

  py::class_<Attributes>(m, "Attributes")
      .def_readonly("eps", &Attributes::eps)
      .def_readonly("scale", &Attributes::scale)
      .def_readonly("layer", &Attributes::layer)
      .def_readonly("n_heads", &Attributes::n_heads)
      .def_readonly("n_kv_heads", &Attributes::n_kv_heads)
      .def_readonly("head_dim", &Attributes::head_dim)
      .def_readonly("window", &Attributes::window)
      .def_readonly("causal", &Attributes::causal)
      .def_readonly("tanh", &Attributes::tanh)
      .def_readonly("cross", &Attributes::cross)
      .def_readonly("indices", &Attributes::indices)
      .def_readonly("function", &Attributes::function)
      .def_readonly("pooling", &Attributes::pooling);
}

Instruction make_instruction(OpKind op, std::vector<int> inputs, std::vector<int> outputs, std::vector<int> parameters,
                             float eps, float scale, int64_t layer, int64_t n_heads, int64_t n_kv_heads,
                             int64_t head_dim, int64_t window, bool causal, bool tanh, bool cross, Indices indices,
                             Function function, Pooling pooling) {
  return {op, std::move(inputs), std::move(outputs), std::move(parameters),
          Attributes{.eps = eps,
                     .scale = scale,
                     .layer = layer,
                     .n_heads = n_heads,
                     .n_kv_heads = n_kv_heads,
                     .head_dim = head_dim,
                     .window = window,
                     .causal = causal,
                     .tanh = tanh,
                     .cross = cross,
                     .indices = indices,
                     .function = function,
                     .pooling = pooling}};
}

void bind_instruction(py::module_& m) {
  py::class_<Instruction>(m, "Instruction")
      .def(py::init(&make_instruction), py::arg("op"), py::arg("inputs"), py::arg("outputs"), py::arg("parameters"),
           py::kw_only(), py::arg("eps") = 0.0f, py::arg("scale") = 0.0f, py::arg("layer") = 0, py::arg("n_heads") = 0,
           py::arg("n_kv_heads") = 0, py::arg("head_dim") = 0, py::arg("window") = 0, py::arg("causal") = true,
           py::arg("tanh") = false, py::arg("cross") = false, py::arg_v("indices", Indices::kTokens, "Indices.tokens"),
           py::arg_v("function", Function::kRelu, "Function.relu"),
           py::arg_v("pooling", Pooling::kMean, "Pooling.mean"))
      .def_property_readonly("op", [](const Instruction& at) { return op(at.op).name; })
      .def_readonly("inputs", &Instruction::inputs)
      .def_readonly("outputs", &Instruction::outputs)
      .def_readonly("parameters", &Instruction::parameters)
      .def_readonly("attributes", &Instruction::attributes);
}

}  // namespace

void bind_program(py::module_& m) {
  bind_names(m);
  bind_rope_table(m);
  bind_values(m);
  bind_instruction(m);
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
      .def_property_readonly("values", &Program::values)
      .def_property_readonly("parameters", &parameters, "As the constructor takes them.")
      .def_property_readonly("instructions", &Program::instructions)
      .def_property_readonly("width", &Program::result_width)
      .def_property_readonly("vocab_size", &Program::vocab_size)
      .def_property_readonly("n_types", &Program::n_types)
      .def_property_readonly("pools", &Program::pools)
      .def_property_readonly("context_length", &Program::context_length);
}

}  // namespace jiffy
