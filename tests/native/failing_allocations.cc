#include "failing_allocations.h"

#include <cstddef>
#include <cstdlib>
#include <new>

// In a file of its own: where the compiler can inline only one of new and delete it warns that they don't match.

namespace {
thread_local int64_t successes_left = -1;
}

void* operator new(size_t size) {
  if (successes_left >= 0 && successes_left-- == 0) throw std::bad_alloc();
  if (void* memory = std::malloc(size > 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}

// std::stable_sort's; it would otherwise be a sanitiser's own, which doesn't go with the delete below.
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  try {
    return operator new(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace jiffy::check {

void fail_allocation_after(int64_t successes) { successes_left = successes; }

}  // namespace jiffy::check
