#include "base/error.h"

#include <utility>

namespace jiffy {

Error::Error(ErrorKind kind, std::string where, std::string expected, std::string found)
    : kind(kind),
      where(std::move(where)),
      expected(std::move(expected)),
      found(std::move(found)),
      message_(this->where + ": expected " + this->expected + ", found " + this->found) {}

void fail(ErrorKind kind, std::string where, std::string expected, std::string found) {
  throw Error(kind, std::move(where), std::move(expected), std::move(found));
}

}  // namespace jiffy
