#pragma once

#include <exception>
#include <string>

namespace jiffy {

enum class ErrorKind { kFormat, kParameter, kContextOverflow, kUnsupported, kOutOfMemory, kFork, kInternal };

// The one exception of the library. It names the place (a file, a tensor, an argument), what had to be there and what
// was; `bindings/` turns each kind into its own Python class.
class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string where, std::string expected, std::string found);

  const char* what() const noexcept override { return message_.c_str(); }  // "where: expected E, found F"

  const ErrorKind kind;
  const std::string where;
  const std::string expected;
  const std::string found;

 private:
  std::string message_;
};

// Throws an Error. A function call, so that the cold path of a check stays out of the code around it.
[[noreturn]] void fail(ErrorKind kind, std::string where, std::string expected, std::string found);

}  // namespace jiffy
