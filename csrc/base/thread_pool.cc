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

// A stage's number and, in its low bits, how many lanes are in it.
constexpr uint32_t kStage = 2048;
constexpr uint32_t kLanesInStage = kStage - 1;
static_assert(kMaxThreads < kStage);

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

template <class Condition>
bool spins_until(const Condition& is_met, std::chrono::microseconds spin) {
  const auto deadline = std::chrono::steady_clock::now() + spin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (is_met()) return true;
      pause_briefly();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

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
    if (spins_until([&] { return openings() != seen; }, spin)) return;
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    openings_.wait(seen, std::memory_order_seq_cst);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }

 private:
  alignas(kCacheLine) std::atomic<uint32_t> openings_{0};
  alignas(kCacheLine) std::atomic<int> sleepers_{0};
};

}  // namespace

class Team {
 public:
  explicit Team(int count) : count_(count) {}

  void start_workers();
  void stop_workers();
  void run(const std::function<void(Lane&)>& body);
  void barrier();
  bool enter(uint32_t stage);
  void leave(uint32_t stage);

  int64_t next_chunk(uint32_t stage) { return chunks(stage).fetch_add(1, std::memory_order_relaxed); }
  int count() const { return count_; }
  bool is_in_its_process() const { return process_ == getpid(); }

 private:
  void run_lane(int id) noexcept;
  void work(int id);
  void wait_behind(uint32_t stage);
  std::atomic<int64_t>& chunks(uint32_t stage) { return next_chunk_[stage / kStage % 2].value; }

  const int count_;
  const pid_t process_ = getpid();
  std::vector<std::thread> workers_;
  std::mutex run_mutex_;
  const std::function<void(Lane&)>* body_ = nullptr;  // of the current region; null tells the workers to end

  Gate region_;  // opens when a region begins
  Gate passed_;  // opens when all lanes have arrived at a barrier
  alignas(kCacheLine) std::atomic<int> arrived_{0};

  // Whoever closes a stage sets the next one's counter to 0, which nobody uses yet.
  struct Counter {
    alignas(kCacheLine) std::atomic<int64_t> value{0};
  };
  Counter next_chunk_[2];
  alignas(kCacheLine) std::atomic<uint32_t> stage_{0};
  alignas(kCacheLine) std::atomic<int> stage_sleepers_{0};
  uint32_t first_stage_ = 0;  // of the current region
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
  first_stage_ = stage_.load(std::memory_order_relaxed);
  region_.open();
  run_lane(0);
}

// A region ends with a barrier of its own, which also leaves the chunk counter at 0 for the next one.
void Team::run_lane(int id) noexcept {
  const DefaultFloatMode float_mode;
  Lane lane(*this, id, count_, first_stage_);
  (*body_)(lane);
  barrier();
}

void Team::work(int id) {
  for (uint32_t seen = 0;; ++seen) {
    region_.wait_past(seen, kIdleSpin);
    if (body_ == nullptr) return;
    run_lane(id);
  }
}

void Team::barrier() {
  const uint32_t seen = passed_.openings();
  const bool is_last = count_ == 1 || arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_;
  if (!is_last) return passed_.wait_past(seen, kBarrierSpin);
  arrived_.store(0, std::memory_order_relaxed);
  chunks(stage_.load(std::memory_order_relaxed)).store(0, std::memory_order_relaxed);
  if (count_ > 1) passed_.open();
}

bool Team::enter(uint32_t stage) {
  uint32_t now = stage_.load(std::memory_order_relaxed);
  do {
    if ((now & ~kLanesInStage) != stage) return false;
  } while (!stage_.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel, std::memory_order_relaxed));
  return true;
}

// A lane leaves when no chunk is left to take, so when the last one leaves, all have been done. Until it has closed the
// stage others may still enter, and find nothing.
void Team::leave(uint32_t stage) {
  uint32_t now = stage_.load(std::memory_order_relaxed);
  for (;;) {
    const bool is_last = (now & kLanesInStage) == 1;
    if (is_last) chunks(stage + kStage).store(0, std::memory_order_relaxed);
    const uint32_t then = is_last ? stage + kStage : now - 1;
    if (!stage_.compare_exchange_weak(now, then, std::memory_order_seq_cst, std::memory_order_relaxed)) continue;
    if (!is_last) return wait_behind(stage);
    if (stage_sleepers_.load(std::memory_order_seq_cst) > 0) stage_.notify_all();
    return;
  }
}

void Team::wait_behind(uint32_t stage) {
  const auto is_over = [&] { return (stage_.load(std::memory_order_acquire) & ~kLanesInStage) != stage; };
  if (spins_until(is_over, kBarrierSpin)) return;
  stage_sleepers_.fetch_add(1, std::memory_order_seq_cst);
  for (uint32_t now; ((now = stage_.load(std::memory_order_seq_cst)) & ~kLanesInStage) == stage;) stage_.wait(now);
  stage_sleepers_.fetch_sub(1, std::memory_order_relaxed);
}

void Lane::barrier() { team_.barrier(); }

int64_t Lane::next_chunk() { return team_.next_chunk(stage_); }

bool Lane::begin_stage() {
  if (team_.enter(stage_)) return true;
  stage_ += kStage;
  return false;
}

void Lane::end_stage() {
  team_.leave(stage_);
  stage_ += kStage;
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
