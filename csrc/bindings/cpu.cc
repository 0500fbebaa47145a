#include <pybind11/stl.h>

#include "base/cpu_info.h"
#include "bindings/bindings.h"
#include "kernels/cpu/select.h"

namespace py = pybind11;

namespace jiffy {

void bind_cpu(py::module_& m) {
  m.def("isas", &supported_isas, "Instruction sets that run on this CPU, slowest first.");

  py::class_<CpuInfo>(m, "CpuInfo")
      .def_readonly("name", &CpuInfo::name)
      .def_readonly("avx2", &CpuInfo::avx2)
      .def_readonly("avx512", &CpuInfo::avx512)
      .def_readonly("avx512_bf16", &CpuInfo::avx512_bf16)
      .def_readonly("amx", &CpuInfo::amx)
      .def_readonly("avx_vnni", &CpuInfo::avx_vnni)
      .def_readonly("usable_cpus", &CpuInfo::usable_cpus)
      .def_readonly("physical_cores", &CpuInfo::physical_cores)
      .def_readonly("default_threads", &CpuInfo::default_threads);
  m.def("cpu_info", &detect_cpu, "What this process may use of this machine.");
}

}  // namespace jiffy
