#pragma once

#include <exception>

namespace jiffy {

// A step that the caller's `interrupted` ended; every sequence is as it was before.
struct Interruption : std::exception {
  const char* what() const noexcept override { return "interrupted"; }
};

}  // namespace jiffy
