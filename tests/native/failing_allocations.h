// Lets an allocation fail that never fails by itself.
#pragma once

#include <cstdint>

namespace jiffy::check {

// The operator new of this thread succeeds `successes` times from now and then throws std::bad_alloc, once. -1: it
// doesn't throw.
void fail_allocation_after(int64_t successes);

}  // namespace jiffy::check
