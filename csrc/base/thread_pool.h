#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace jiffy {

class Team;  // the state that the lanes of a pool share

// One thread's view of a parallel region. A region is a sequence of phases, whose work is dealt out in chunks. A phase
// is over when its chunks are gone and all lanes that entered it have finished; a lane that comes later, perhaps
// because it had no core, finds it over and goes on to the next. So no one waits for a lane that holds no work.
class Lane {
 public:
  int id() const { return id_; }  // 0 .. count() - 1; lane 0 is the thread that called run()
  int count() const { return count_; }

  // Whether this lane takes part in the phase: false if it is over, then nothing that belongs to it may be read.
  bool enter();

  // 0, 1, 2, ... dealt out over the lanes of a phase, which it enters; at least kNoChunk if the phase is over.
  int64_t next_chunk();

  // Ends this lane's part of the phase, all of whose chunks have been dealt out. Returns when the phase is over: what a
  // lane wrote in it, all lanes see.
  void finish();

  // Returns when every lane has arrived, in whichever phase it is; all go on together in a new one. What a lane wrote
  // before, all lanes see.
  void barrier();

  static constexpr int64_t kNoChunk = int64_t{1} << 40;

 private:
  friend class Team;
  Lane(Team& team, int id, int count, uint32_t phase) : team_(team), id_(id), count_(count), phase_(phase) {}

  Team& team_;
  const int id_;
  const int count_;
  uint32_t phase_;
  bool entered_ = false;
};

// Threads that run one function together (SPMD). The calling thread is lane 0, so n_threads - 1 workers are started.
class ThreadPool {
 public:
  // Throws kParameter unless 1 <= n_threads <= 1024, kOutOfMemory when a thread can't be started.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  // Every lane runs `body` once; returns when all have finished. Each lane computes with round to nearest and without
  // flush-to-zero, whatever its thread was set to before. A body neither throws nor calls run() of its own pool. Calls
  // from several threads take turns. Throws kFork in a process other than the pool's own: fork() copies no threads.
  void run(const std::function<void(Lane&)>& body);

 private:
  std::unique_ptr<Team> team_;
};

}  // namespace jiffy
