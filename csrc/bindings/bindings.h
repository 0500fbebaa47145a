// One function per bound class; none holds logic.
#pragma once

#include <pybind11/pybind11.h>

namespace jiffy {

class Error;

pybind11::object make_exception(const Error& error);  // of the class in jiffy.errors that fits its kind

void bind_errors(pybind11::module_& m);
void bind_cpu(pybind11::module_& m);
void bind_thread_pool(pybind11::module_& m);
void bind_weight(pybind11::module_& m);
void bind_program(pybind11::module_& m);
void bind_engine(pybind11::module_& m);
void bind_runtime(pybind11::module_& m);

}  // namespace jiffy
