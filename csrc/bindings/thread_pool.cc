#include "base/thread_pool.h"

#include <algorithm>
#include <memory>

#include "base/buffer.h"
#include "bindings/bindings.h"
#include "kernels/cpu/select.h"

namespace py = pybind11;

namespace jiffy {
namespace {

// Bytes that one pass of all lanes over `buffer` reads.
int64_t read_pass(ThreadPool& pool, const Kernels& kernels, const Buffer& buffer, int streams) {
  const int64_t share = static_cast<int64_t>(buffer.size()) / pool.size() / 256 * 256;
  pool.run([&](Lane& lane) {
    int32_t sum = 0;
    kernels.read_probe({buffer.as<uint8_t>() + lane.id() * share, share, streams, &sum});
  });
  return share * pool.size();
}

int64_t peak_pass(ThreadPool& pool, const Kernels& kernels, Arithmetic arithmetic, int64_t repeats) {
  int64_t operations = 0;
  pool.run([&](Lane& lane) {
    int64_t mine = 0;
    kernels.peak_probe({arithmetic, repeats, &mine, kernels.matrix_tiles});
    if (lane.id() == 0) operations = mine * lane.count();
  });
  return operations;
}

Buffer touched_buffer(ThreadPool& pool, int64_t bytes) {
  Buffer buffer = Buffer::allocate(static_cast<size_t>(bytes), "the buffer of the bandwidth probe");
  pool.run([&](Lane& lane) {
    const int64_t share = bytes / lane.count();
    std::fill_n(buffer.as<uint8_t>() + lane.id() * share, share, uint8_t{1});
  });
  return buffer;
}

}  // namespace

void bind_thread_pool(py::module_& m) {
  py::class_<ThreadPool, std::shared_ptr<ThreadPool>>(m, "ThreadPool")
      .def(py::init<int>(), py::arg("n_threads"), py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("size", &ThreadPool::size);

  py::enum_<Arithmetic>(m, "Arithmetic")
      .value("int8", Arithmetic::kInt8)
      .value("bf16", Arithmetic::kBf16)
      .value("f32", Arithmetic::kF32);

  py::class_<Buffer>(m, "ProbeBuffer", "Memory for read_pass: every page touched by the thread that will read it.")
      .def(py::init(&touched_buffer), py::arg("pool"), py::arg("n_bytes"), py::call_guard<py::gil_scoped_release>());
  m.def(
      "read_pass",
      [](ThreadPool& pool, const Buffer& buffer, int streams, const std::string& isa) {
        return read_pass(pool, select_kernels(isa), buffer, streams);
      },
      py::arg("pool"), py::arg("buffer"), py::arg("streams"), py::arg("isa") = "auto",
      py::call_guard<py::gil_scoped_release>(), "Reads the buffer once with all threads; returns the bytes read.");
  m.def(
      "peak_pass",
      [](ThreadPool& pool, Arithmetic arithmetic, int64_t repeats, const std::string& isa) {
        return peak_pass(pool, select_kernels(isa), arithmetic, repeats);
      },
      py::arg("pool"), py::arg("arithmetic"), py::arg("repeats"), py::arg("isa") = "auto",
      py::call_guard<py::gil_scoped_release>(),
      "Multiply-adds on all threads; returns the operations done, 0 if there is no such instruction.");
}

}  // namespace jiffy
