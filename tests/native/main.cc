#include <atomic>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "check.h"

namespace jiffy::check {
namespace {

struct Test {
  const char* name;
  void (*body)();
};

// Filled before main() by static objects of other files, so it must exist before the first of them.
std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

std::atomic<int> failures{0};
std::string skip_reason;  // of the running test

void run(const Test& test) {
  try {
    test.body();
  } catch (const std::exception& error) {
    report_failure(test.name, 0, std::string("uncaught exception: ") + error.what());
  }
}

}  // namespace

void register_test(const char* name, void (*body)()) { tests().push_back({name, body}); }

void report_failure(const char* file, int line, const std::string& message) {
  ++failures;
  std::fprintf(stderr, "%s:%d: %s\n", file, line, message.c_str());
}

void report_skip(const std::string& reason) { skip_reason = reason; }

int run_tests(const std::string& filter) {
  int passed = 0;
  int failed = 0;
  for (const Test& test : tests()) {
    if (std::string(test.name).find(filter) == std::string::npos) continue;
    const int failures_before = failures;
    skip_reason.clear();
    run(test);
    const bool is_ok = failures == failures_before;
    const bool is_skipped = is_ok && !skip_reason.empty();
    passed += is_ok && !is_skipped;
    failed += !is_ok;
    std::printf("%s %s %s\n", is_skipped ? "skipped" : is_ok ? "ok     " : "FAILED ", test.name, skip_reason.c_str());
    std::fflush(stdout);  // a forked child must not print it a second time, a crash must not swallow it
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}

}  // namespace jiffy::check

int main(int argc, char** argv) { return jiffy::check::run_tests(argc > 1 ? argv[1] : ""); }
