// Calls that Ctrl-C ends.
#pragma once

#include <pybind11/pybind11.h>

#include "runtime/interruption.h"

namespace jiffy {

// Within a step Python's own handler is asked, and its exception comes out of the call.
inline bool python_signal() {
  const pybind11::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

template <class Call>
auto interruptible(Call&& call) {
  try {
    const pybind11::gil_scoped_release release;
    return call();
  } catch (const Interruption&) {
    throw pybind11::error_already_set();
  }
}

}  // namespace jiffy
