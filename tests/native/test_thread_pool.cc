#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "check.h"
#include "support.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace jiffy {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

using check::kAddressSanitizer;
using check::kThreadSanitizer;
using check::succeeds_in_child;

bool run_throws_fork_error(ThreadPool& pool) {
  try {
    pool.run([](Lane&) {});
  } catch (const Error& error) {
    return error.kind == ErrorKind::kFork;
  }
  return false;
}

TEST(pool_size_is_bounded) {
  for (int size : {0, -1, 1025}) CHECK_THROWS(ErrorKind::kParameter, ThreadPool(size));
  CHECK_EQ(ThreadPool(1).size(), 1);
}

TEST(pool_runs_every_lane_once) {
  for (int size : {1, 2, 3, 5, 17}) {
    ThreadPool pool(size);
    CHECK_EQ(pool.size(), size);
    std::vector<int> runs(size);
    std::vector<std::thread::id> threads(size);
    for (int region = 0; region < 100; ++region) {
      pool.run([&](Lane& lane) {
        CHECK_EQ(lane.count(), size);
        ++runs[lane.id()];
        threads[lane.id()] = std::this_thread::get_id();
      });
    }
    CHECK(runs == std::vector<int>(size, 100));
    CHECK(threads[0] == std::this_thread::get_id());
    std::sort(threads.begin(), threads.end());
    CHECK(std::unique(threads.begin(), threads.end()) == threads.end());
  }
}

TEST(stages_do_every_chunk_once_and_show_it_to_the_next) {
  constexpr int kChunks = 7;
  constexpr int kStages = 2000;
  for (int size : {1, 2, 3, 5, 17}) {
    ThreadPool pool(size);
    std::vector<std::vector<int>> done(2, std::vector<int>(kChunks, 0));
    for (int region = 0; region < 3; ++region) {
      for (auto& each : done) each.assign(kChunks, 0);
      pool.run([&](Lane& lane) {
        for (int stage = 1; stage <= kStages; ++stage) {
          if (!lane.begin_stage()) continue;
          for (int64_t chunk; (chunk = lane.next_chunk()) < kChunks;) {
            const int before = done[(stage + 1) % 2][(chunk + 1) % kChunks];  // what another lane may have written
            CHECK_EQ(before, stage - 1);
            int& mine = done[stage % 2][chunk];
            CHECK_EQ(mine, stage < 2 ? 0 : stage - 2);
            mine = before + 1;
          }
          lane.end_stage();
        }
        lane.barrier();
        for (int value : done[kStages % 2]) CHECK_EQ(value, kStages);
      });
    }
  }
}

TEST(stages_do_not_wait_for_a_lane_that_is_not_there) {
  ThreadPool pool(2);
  std::atomic<bool> is_back{false};
  bool was_back = true;
  int64_t chunks = 0;
  pool.run([&](Lane& lane) {
    if (lane.id() == 1) {
      std::this_thread::sleep_for(milliseconds(200));
      is_back = true;
    }
    for (int stage = 0; stage < 100; ++stage) {
      if (!lane.begin_stage()) continue;
      while (lane.next_chunk() < 3) ++chunks;
      lane.end_stage();
    }
    if (lane.id() == 0) was_back = is_back;
  });
  CHECK(!was_back);
  CHECK_EQ(chunks, 300);
}

TEST(barrier_shows_what_others_wrote) {
  constexpr int kRounds = 2000;
  for (int size : {1, 2, 3, 5}) {
    ThreadPool pool(size);
    std::vector<int> written(size, -1);
    pool.run([&](Lane& lane) {
      for (int round = 0; round < kRounds; ++round) {
        written[lane.id()] = round;
        lane.barrier();
        for (int value : written) CHECK_EQ(value, round);
        lane.barrier();
      }
    });
  }
}

TEST(chunks_are_dealt_once_each) {
  constexpr int kChunks = 1000;
  for (int size : {1, 2, 3, 5}) {
    ThreadPool pool(size);
    std::vector<std::atomic<int>> taken(kChunks);
    for (int region = 0; region < 10; ++region) {
      pool.run([&](Lane& lane) {
        for (int round = 0; round < 10; ++round) {
          for (int64_t i = lane.next_chunk(); i < kChunks; i = lane.next_chunk()) ++taken[i];
          if (round < 9) lane.barrier();  // the end of the region must reset the counter too
        }
      });
    }
    for (const std::atomic<int>& times : taken) CHECK_EQ(times.load(), 100);
  }
}

TEST(delayed_lane_sheds_its_work) {
  ThreadPool pool(3);
  constexpr int kChunks = 100;
  std::atomic<int> done{0};
  pool.run([&](Lane& lane) {
    if (lane.id() == 1) {
      while (done < kChunks) std::this_thread::sleep_for(milliseconds(1));
    }
    while (lane.next_chunk() < kChunks) ++done;
  });
  CHECK_EQ(done.load(), kChunks);
}

TEST(sleeping_lanes_wake) {
  ThreadPool pool(3);
  std::atomic<int> arrivals{0};
  for (int region = 0; region < 20; ++region) {
    std::this_thread::sleep_for(milliseconds(2));  // longer than workers spin between regions
    pool.run([&](Lane& lane) {
      if (lane.id() == region % 3) std::this_thread::sleep_for(milliseconds(2));  // longer than a barrier spins
      lane.barrier();
      ++arrivals;
    });
  }
  CHECK_EQ(arrivals.load(), 60);
}

// Barriers that only spin take milliseconds each here: the lane that all wait for has no core.
TEST(more_lanes_than_cores_still_finish_fast) {
  const int size = 2 * static_cast<int>(std::max(1u, std::thread::hardware_concurrency())) + 1;
  constexpr int kBarriers = 1000;
  ThreadPool pool(size);
  const auto start = steady_clock::now();
  pool.run([](Lane& lane) {
    for (int i = 0; i < kBarriers; ++i) lane.barrier();
  });
  const auto elapsed = std::chrono::duration_cast<milliseconds>(steady_clock::now() - start);
  CHECK(elapsed < milliseconds(3000));
}

TEST(runs_of_two_threads_take_turns) {
  ThreadPool pool(3);
  int regions = 0;  // no lock of its own
  const auto caller = [&] {
    for (int i = 0; i < 200; ++i) {
      pool.run([&](Lane& lane) {
        if (lane.id() == 1) ++regions;
      });
    }
  };
  std::thread other(caller);
  caller();
  other.join();
  CHECK_EQ(regions, 400);
}

TEST(pools_come_and_go) {
  for (int cycle = 0; cycle < 100; ++cycle) {
    ThreadPool pool(1 + cycle % 5);
    if (cycle % 2 == 0) pool.run([](Lane& lane) { lane.barrier(); });
  }
}

#if defined(__x86_64__)
TEST(lanes_round_to_nearest_and_keep_subnormals) {
  constexpr unsigned kControl = 0xffc0;          // all but the exception flags
  constexpr unsigned kFlushAndRoundUp = 0xdfc0;  // flush-to-zero, round up, subnormals are zero, exceptions masked
  const unsigned before = _mm_getcsr();
  ThreadPool pool(3);
  _mm_setcsr(kFlushAndRoundUp);
  pool.run([&](Lane&) { CHECK_EQ(_mm_getcsr() & kControl, 0x1f80); });
  CHECK_EQ(_mm_getcsr() & kControl, kFlushAndRoundUp);
  _mm_setcsr(before);
}
#endif

TEST(forked_child_gets_an_error) {
  auto pool = std::make_unique<ThreadPool>(3);
  pool->run([](Lane&) {});
  CHECK(succeeds_in_child([&] { return run_throws_fork_error(*pool); }));
  CHECK(succeeds_in_child([&] {
    pool.reset();
    return pool == nullptr;
  }));
  pool->run([](Lane&) {});
}

TEST(child_forked_within_a_region_gets_an_error) {
  ThreadPool pool(2);
  std::atomic<bool> ok{false};
  pool.run([&](Lane& lane) {
    if (lane.id() == 0) ok = succeeds_in_child([&] { return run_throws_fork_error(pool); });
  });
  CHECK(ok);
}

TEST(forked_child_can_make_its_own_pool) {
  if (kThreadSanitizer) SKIP("the thread sanitiser ends a child that starts threads");
  ThreadPool pool(3);
  CHECK(succeeds_in_child([] {
    std::atomic<int> lanes{0};
    ThreadPool(3).run([&](Lane&) { ++lanes; });
    return lanes == 3;
  }));
}

// Leaves address space for a few stacks, not for 64.
TEST(too_many_threads_is_an_error) {
  if (kThreadSanitizer || kAddressSanitizer) SKIP("a sanitiser's shadow memory is larger than the limit");
  CHECK(succeeds_in_child([] {
    size_t mapped_pages = 0;
    std::ifstream("/proc/self/statm") >> mapped_pages;
    const size_t limit = mapped_pages * static_cast<size_t>(sysconf(_SC_PAGESIZE)) + (size_t{40} << 20);
    const rlimit address_space{limit, limit};
    setrlimit(RLIMIT_AS, &address_space);
    try {
      ThreadPool pool(64);
    } catch (const Error& error) {
      return error.kind == ErrorKind::kOutOfMemory;
    }
    return false;
  }));
}

}  // namespace
}  // namespace jiffy
