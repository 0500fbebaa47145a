// One function per bound class; none holds logic.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <vector>

namespace jiffy {

class Error;
struct Parameter;
enum class KvType : uint8_t;

pybind11::object make_exception(const Error& error);  // of the class in jiffy.errors that fits its kind

KvType parse_kv_type(const std::string& name);  // throws kParameter
const char* kv_type_name(KvType type);

// A Weight, a RopeTable, or a float array [cols] or [rows, cols], which is copied; `owners` keeps the memory.
Parameter make_parameter(const std::string& name, const pybind11::object& value,
                         std::vector<std::shared_ptr<const void>>& owners);

void bind_errors(pybind11::module_& m);
void bind_cpu(pybind11::module_& m);
void bind_thread_pool(pybind11::module_& m);
void bind_weight(pybind11::module_& m);
void bind_program(pybind11::module_& m);
void bind_packed(pybind11::module_& m);
void bind_engine(pybind11::module_& m);
void bind_encoder(pybind11::module_& m);
void bind_ops(pybind11::module_& m);
void bind_runtime(pybind11::module_& m);

}  // namespace jiffy
