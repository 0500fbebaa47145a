#include "base/thread_pool.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace jiffy {
namespace {

constexpr int kMaxThreads = 1024;
constexpr size_t kCacheLine = 64;

// Spinning hides the 35 us of a futex round trip when the others are close, but with more lanes than cores it keeps the
// very lane from running that all wait for (a pure spin: 7.9 ms a barrier with 3 lanes on 2 cores).
constexpr std::chrono::microseconds kBarrierSpin{30};
constexpr std::chrono::microseconds kIdleSpin{50};

#if defined(__x86_64__)

void pause_briefly() { _mm_pause(); }

// Round to nearest, no flush-to-zero, exceptions masked, for as long as the object lives.
class DefaultFloatMode {
 public:
  DefaultFloatMode() { _mm_setcsr(0x1f80); }
  ~DefaultFloatMode() { _mm_setcsr(saved_); }
  DefaultFloatMode(const DefaultFloatMode&) = delete;
  DefaultFloatMode& operator=(const DefaultFloatMode&) = delete;

 private:
  const unsigned saved_ = _mm_getcsr();
};

#else

void pause_briefly() { std::this_thread::yield(); }

struct DefaultFloatMode {
  ~DefaultFloatMode() {}  // not trivial, so that an object of it counts as used
};

#endif

// A count of openings, and a way to wait for the next one: spin for a while, then sleep.
class Gate {
 public:
  uint32_t openings() const { return openings_.load(std::memory_order_acquire); }

  // The order of the two seq_cst operations here and in wait_past() makes sure that either the waiter sees the opening
  // or the opener sees the sleeper. A wake costs a system call, so nobody pays it for lanes that still spin.
  void open() {
    openings_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) openings_.notify_all();
  }

  // Returns when openings() is no longer `seen`.
  void wait_past(uint32_t seen, std::chrono::microseconds spin) {
    if (spins_past(seen, spin)) return;
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    openings_.wait(seen, std::memory_order_seq_cst);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }

 private:
  bool spins_past(uint32_t seen, std::chrono::microseconds spin) const {
    const auto deadline = std::chrono::steady_clock::now() + spin;
    do {
      for (int i = 0; i < 64; ++i) {
        if (openings() != seen) return true;
        pause_briefly();
      }
    } while (std::chrono::steady_clock::now() < deadline);
    return false;
  }

  alignas(kCacheLine) std::atomic<uint32_t> openings_{0};
  alignas(kCacheLine) std::atomic<int> sleepers_{0};
};

// The state of a phase in one word, so that a lane can't enter what another ends: its number, how many lanes are in it,
// and the chunks that have been dealt.
class PhaseWord {
 public:
  static constexpr uint64_t kChunk = 1, kLane = uint64_t{1} << 28, kPhase = uint64_t{1} << 40;
  static_assert(kMaxThreads * kLane < kPhase);

  static uint64_t start_of(uint32_t phase) { return phase * kPhase; }
  static uint32_t phase(uint64_t word) { return static_cast<uint32_t>(word / kPhase); }
  static uint32_t after(uint32_t phase) { return (phase + 1) % (uint32_t{1} << 24); }
  static uint64_t lanes(uint64_t word) { return word % kPhase / kLane; }
  static int64_t chunks(uint64_t word) { return static_cast<int64_t>(word % kLane); }
};

}  // namespace

class Team {
 public:
  explicit Team(int count) : count_(count) {}

  void start_workers();
  void stop_workers();
  void run(const std::function<void(Lane&)>& body);

  bool enter(uint32_t phase);
  int64_t next_chunk() { return PhaseWord::chunks(word_.fetch_add(PhaseWord::kChunk, std::memory_order_relaxed)); }
  void finish(uint32_t phase);
  uint32_t barrier();  // the phase behind it
  int count() const { return count_; }
  bool is_in_its_process() const { return process_ == getpid(); }

 private:
  void run_lane(int id) noexcept;
  void work(int id);
  template <class Done>
  void wait_until(Done&& done);

  const int count_;
  const pid_t process_ = getpid();
  std::vector<std::thread> workers_;
  std::mutex run_mutex_;
  const std::function<void(Lane&)>* body_ = nullptr;  // of the current region; null tells the workers to end

  uint32_t first_phase_ = 0;  // since the last barrier

  Gate region_;                                         // opens when a region begins
  Gate passed_;                                         // opens when a phase or a barrier is over
  alignas(kCacheLine) std::atomic<int> arrived_{0};     // at a barrier
  alignas(kCacheLine) std::atomic<uint32_t> round_{0};  // barriers so far
  alignas(kCacheLine) std::atomic<uint64_t> word_{0};
};

void Team::start_workers() {
  workers_.reserve(count_ - 1);
  try {
    for (int id = 1; id < count_; ++id) workers_.emplace_back(&Team::work, this, id);
  } catch (const std::exception& error) {  // std::system_error from the thread, std::bad_alloc from its state
    const std::string started = std::to_string(workers_.size());
    stop_workers();
    fail(ErrorKind::kOutOfMemory, "thread pool", std::to_string(count_ - 1) + " threads to start",
         started + " started, then " + error.what());
  }
}

void Team::stop_workers() {
  body_ = nullptr;
  region_.open();
  for (std::thread& worker : workers_) worker.join();
}

void Team::run(const std::function<void(Lane&)>& body) {
  const std::lock_guard<std::mutex> lock(run_mutex_);
  body_ = &body;
  region_.open();
  run_lane(0);
}

// A region ends with a barrier of its own.
void Team::run_lane(int id) noexcept {
  const DefaultFloatMode float_mode;
  Lane lane(*this, id, count_, first_phase_);
  (*body_)(lane);
  lane.barrier();
}

void Team::work(int id) {
  for (uint32_t seen = 0;; ++seen) {
    region_.wait_past(seen, kIdleSpin);
    if (body_ == nullptr) return;
    run_lane(id);
  }
}

bool Team::enter(uint32_t phase) {
  uint64_t word = word_.load(std::memory_order_acquire);
  do {
    if (PhaseWord::phase(word) != phase) return false;
  } while (!word_.compare_exchange_weak(word, word + PhaseWord::kLane, std::memory_order_acquire));
  return true;
}

// The last of the lanes in a phase ends it, in the very step in which it leaves: nobody can enter in between.
void Team::finish(uint32_t phase) {
  uint64_t word = word_.load(std::memory_order_relaxed), next;
  do {
    const bool last = PhaseWord::lanes(word) == 1;
    next = last ? PhaseWord::start_of(PhaseWord::after(phase)) : word - PhaseWord::kLane;
  } while (!word_.compare_exchange_weak(word, next, std::memory_order_acq_rel, std::memory_order_relaxed));
  if (PhaseWord::phase(next) == phase) {
    return wait_until([&] { return PhaseWord::phase(word_.load(std::memory_order_acquire)) != phase; });
  }
  if (count_ > 1) passed_.open();
}

uint32_t Team::barrier() {
  const uint32_t round = round_.load(std::memory_order_relaxed);
  if (count_ > 1 && arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < count_) {
    wait_until([&] { return round_.load(std::memory_order_acquire) != round; });
    return first_phase_;
  }
  arrived_.store(0, std::memory_order_relaxed);
  first_phase_ = PhaseWord::after(PhaseWord::phase(word_.load(std::memory_order_relaxed)));
  word_.store(PhaseWord::start_of(first_phase_), std::memory_order_relaxed);
  round_.store(round + 1, std::memory_order_release);
  if (count_ > 1) passed_.open();
  return first_phase_;
}

// Looks between two openings, so that the one which makes `done` true is not missed.
template <class Done>
void Team::wait_until(Done&& done) {
  for (;;) {
    const uint32_t seen = passed_.openings();
    if (done()) return;
    passed_.wait_past(seen, kBarrierSpin);
  }
}

bool Lane::enter() { return entered_ = entered_ || team_.enter(phase_); }

int64_t Lane::next_chunk() { return enter() ? team_.next_chunk() : kNoChunk; }

void Lane::finish() {
  if (enter()) team_.finish(phase_);
  phase_ = PhaseWord::after(phase_);
  entered_ = false;
}

void Lane::barrier() {
  phase_ = team_.barrier();
  entered_ = false;
}

ThreadPool::ThreadPool(int n_threads) {
  if (n_threads < 1 || n_threads > kMaxThreads) {
    fail(ErrorKind::kParameter, "n_threads", "1 to " + std::to_string(kMaxThreads), std::to_string(n_threads));
  }
  team_ = std::make_unique<Team>(n_threads);
  team_->start_workers();
}

// In a forked child neither the threads nor perhaps the holder of the lock exist: nothing there can be joined, so the
// team is left alone.
ThreadPool::~ThreadPool() {
  if (team_->is_in_its_process()) {
    team_->stop_workers();
  } else {
    static_cast<void>(team_.release());
  }
}

int ThreadPool::size() const { return team_->count(); }

void ThreadPool::run(const std::function<void(Lane&)>& body) {
  if (!team_->is_in_its_process()) {  // before the lock, which fork() may have copied locked
    fail(ErrorKind::kFork, "thread pool", "a thread pool made in this process", "a forked child; load the model again");
  }
  team_->run(body);
}

}  // namespace jiffy
