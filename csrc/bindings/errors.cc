// jiffy::Error -> the class of its kind in jiffy.errors; the only place where the two meet.
#include <exception>

#include "base/error.h"
#include "bindings/bindings.h"

namespace py = pybind11;

namespace jiffy {
namespace {

const char* class_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kFormat:
      return "FormatError";
    case ErrorKind::kParameter:
      return "ParameterError";
    case ErrorKind::kContextOverflow:
      return "ContextOverflow";
    case ErrorKind::kUnsupported:
      return "Unsupported";
    case ErrorKind::kOutOfMemory:
      return "OutOfMemory";
    case ErrorKind::kFork:
      return "ForkError";
    case ErrorKind::kInternal:
      break;
  }
  return "Error";
}

// A name of a file, or what stands in one, may be no UTF-8.
py::str text(const std::string& bytes) {
  return py::reinterpret_steal<py::str>(
      PyUnicode_DecodeUTF8(bytes.data(), static_cast<py::ssize_t>(bytes.size()), "replace"));
}

}  // namespace

py::object make_exception(const Error& e) {
  const py::object type = py::module_::import("jiffy.errors").attr(class_name(e.kind));
  return type(text(e.where), py::arg("expected") = text(e.expected), py::arg("found") = text(e.found));
}

void bind_errors(py::module_&) {
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const Error& e) {
      const py::object exception = make_exception(e);
      PyErr_SetObject(py::type::of(exception).ptr(), exception.ptr());
    }
  });
}

}  // namespace jiffy
