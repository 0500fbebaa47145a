#include "runtime/encoder.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "bindings/interruptible.h"
#include "bindings/profile.h"
#include "kernels/cpu/select.h"
#include "runtime/recorder.h"

namespace py = pybind11;

namespace jiffy {
namespace {

template <class T>
using Numbers = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <class T>
std::vector<T> vector_of(const Numbers<T>& numbers) {
  return {numbers.data(), numbers.data() + numbers.size()};
}

py::array_t<float> run(Encoder& encoder, const Numbers<int32_t>& token_ids, const Numbers<int64_t>& lengths,
                       const std::optional<Numbers<int32_t>>& type_ids, const std::optional<Numbers<int64_t>>& rows) {
  EncoderInput input{vector_of(token_ids), {}, vector_of(lengths)};
  if (type_ids) input.type_ids = vector_of(*type_ids);
  const Encoder::Rows wanted = rows ? Encoder::Rows(vector_of(*rows)) : std::nullopt;
  py::array_t<float> out(
      {static_cast<py::ssize_t>(encoder.n_rows(input, wanted)), static_cast<py::ssize_t>(encoder.width())});
  float* data = out.mutable_data();
  interruptible([&] { encoder.run(input, wanted, data, python_signal); });
  return out;
}

// Of every step, one behind the other.
std::vector<InstructionProfile> profile(Encoder& encoder, const Numbers<int32_t>& token_ids,
                                        const Numbers<int64_t>& lengths) {
  const EncoderInput input{vector_of(token_ids), {}, vector_of(lengths)};
  std::vector<float> out(static_cast<size_t>(encoder.n_rows(input, {}) * encoder.width()));
  std::vector<InstructionProfile> profile;
  interruptible([&] { encoder.run(input, {}, out.data(), python_signal, profiling(profile)); });
  return profile;
}

// The result for one sequence, and the rows of the values.
py::tuple observe(Encoder& encoder, const Numbers<int32_t>& token_ids, const std::vector<int>& values) {
  const auto n_tokens = static_cast<int64_t>(token_ids.size());
  const EncoderInput input{vector_of(token_ids), {}, {n_tokens}};
  const int64_t n_rows = encoder.n_rows(input, {});
  Recorder recorder(encoder.program(), values, n_tokens);
  py::array_t<float> out({static_cast<py::ssize_t>(n_rows), static_cast<py::ssize_t>(encoder.width())});
  float* data = out.mutable_data();
  interruptible([&] { encoder.run(input, {}, data, python_signal, std::ref(recorder)); });
  py::list rows;
  for (size_t i = 0; i < values.size(); ++i) {
    const Value& value = encoder.program().values()[static_cast<size_t>(values[i])];
    const int64_t n = value.space == Space::kOutputs ? n_rows : n_tokens;
    rows.append(
        py::array_t<float>({static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(value.width)}, recorder.rows(i)));
  }
  return py::make_tuple(std::move(out), std::move(rows));
}

std::shared_ptr<Encoder> make_encoder(std::shared_ptr<Program> program, std::shared_ptr<ThreadPool> pool,
                                      const std::string& isa, int64_t context, int64_t batch_tokens,
                                      const std::string& kv_dtype) {
  const EncoderOptions options{.context = context, .batch_tokens = batch_tokens, .kv_type = parse_kv_type(kv_dtype)};
  return std::make_shared<Encoder>(std::move(program), std::move(pool), select_kernels(isa), options);
}

}  // namespace

void bind_encoder(py::module_& m) {
  py::class_<Encoder, std::shared_ptr<Encoder>>(m, "Encoder")
      .def(py::init(&make_encoder), py::arg("program"), py::arg("pool"), py::kw_only(), py::arg("isa"),
           py::arg("context"), py::arg("batch_tokens") = 512, py::arg("kv_dtype") = "f32")
      .def("run", &run, py::arg("token_ids"), py::arg("lengths"), py::kw_only(), py::arg("type_ids") = std::nullopt,
           py::arg("rows") = std::nullopt,
           "float32 [rows, width]: of sequences one behind the other, one row for each sequence of a program that "
           "pools, else for each token, or for those whose numbers `rows` has in ascending order.")
      .def("profile", &profile, py::arg("token_ids"), py::arg("lengths"),
           "run() for an InstructionProfile for each instruction of each step.")
      .def("observe", &observe, py::arg("token_ids"), py::arg("values"),
           "run() of one sequence, and for each value of the program float32 [n_tokens, width], or a row of what is "
           "pooled; quantised rows as floats.")
      .def_property_readonly("width", &Encoder::width)
      .def_property_readonly("pools", [](const Encoder& encoder) { return encoder.program().pools(); })
      .def_property_readonly("isa", &Encoder::isa)
      .def_property_readonly("kv_dtype", [](const Encoder& encoder) { return kv_type_name(encoder.kv_type()); });
}

}  // namespace jiffy
