#pragma once

#include <concepts>
#include <exception>
#include <iomanip>
#include <limits>
#include <ostream>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>

#include "base/error.h"

// A small test harness. A failed check prints file, line and values, and the test goes on; any thread may check.
//
//   TEST(pool_counts_chunks) { CHECK_EQ(pool.size(), 3); }

namespace jiffy::check {

void register_test(const char* name, void (*body)());
void report_failure(const char* file, int line, const std::string& message);
void report_skip(const std::string& reason);

// Runs the tests whose names contain `filter`, prints "N passed, M failed" (a skipped test is neither) and returns the
// exit status.
int run_tests(const std::string& filter);

struct Registration {
  Registration(const char* name, void (*body)()) { register_test(name, body); }
};

template <class T>
concept Printable = requires(std::ostream& stream, const T& value) { stream << value; };

template <class T>
std::string show(const T& value) {
  std::ostringstream stream;
  stream << std::boolalpha;
  if constexpr (std::is_floating_point_v<T>) stream << std::setprecision(std::numeric_limits<T>::max_digits10);
  if constexpr (std::is_enum_v<T>) {
    stream << +static_cast<std::underlying_type_t<T>>(value);
  } else if constexpr (std::integral<T> && !std::same_as<T, bool>) {
    stream << +value;  // a number, not a character
  } else if constexpr (Printable<T>) {
    stream << value;
  } else {
    stream << "(a value that can't be printed)";
  }
  return stream.str();
}

template <class T>
concept Integer = std::integral<T> && !std::same_as<T, bool> && !std::same_as<T, char>;

template <class A, class B>
void check_equal(const char* file, int line, const char* text, const A& got, const B& expected) {
  bool equal = false;
  if constexpr (Integer<A> && Integer<B>) {
    equal = std::cmp_equal(got, expected);  // by value, whatever the signs of the types
  } else {
    equal = got == expected;
  }
  if (!equal) report_failure(file, line, std::string(text) + ": got " + show(got) + ", expected " + show(expected));
}

template <class F>
void check_throws(const char* file, int line, const char* text, ErrorKind kind, F&& expression) {
  try {
    expression();
  } catch (const Error& error) {
    if (error.kind == kind) return;
    return report_failure(file, line,
                          std::string(text) + ": threw kind " + show(error.kind) + " (" + error.what() +
                              "), expected kind " + show(kind));
  } catch (const std::exception& error) {
    return report_failure(file, line, std::string(text) + ": threw no jiffy::Error but " + error.what());
  }
  report_failure(file, line, std::string(text) + ": threw nothing");
}

}  // namespace jiffy::check

#define TEST(name)                                                      \
  static void name();                                                   \
  static const jiffy::check::Registration register_##name{#name, name}; \
  static void name()

// Leaves the test; the reason is printed.
#define SKIP(reason) return jiffy::check::report_skip(reason)

#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) jiffy::check::report_failure(__FILE__, __LINE__, #condition); \
  } while (false)

#define CHECK_EQ(got, expected) jiffy::check::check_equal(__FILE__, __LINE__, #got " == " #expected, got, expected)

#define CHECK_THROWS(kind, expression) \
  jiffy::check::check_throws(__FILE__, __LINE__, #expression, kind, [&] { static_cast<void>(expression); })
