#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace jiffy {

class Team;  // the state that the lanes of a pool share

// One thread's view of a parallel region.
class Lane {
 public:
  int id() const { return id_; }  // 0 .. count() - 1; lane 0 is the thread that called run()
  int count() const { return count_; }

  // Returns when every lane has arrived. What a lane wrote before it, all lanes see after it.
  void barrier();

  // 0, 1, 2, ... dealt out over all lanes since the last barrier or in this stage: a delayed lane takes fewer. Start of
  // a region counts as a barrier. A lane may stop asking at any number, but in a stage it asks until nothing is left.
  int64_t next_chunk();

  // Stages are barriers that wait for nobody who isn't there: all lanes go through the same stages, each dealt out by
  // next_chunk() alone; one is over when all its chunks are done, and lanes that had no core meanwhile find it closed.
  // With 3 lanes on 2 cores a barrier takes 100 us, and decode falls to a seventh
  // (benchmarks/contention.py).
  //
  // Returns false if the stage is over: then the lane goes on to the next one without touching it, and without
  // end_stage(). What was written in a stage, all lanes see in the next one that they begin.
  bool begin_stage();
  // Returns when the stage is over.
  void end_stage();

 private:
  friend class Team;
  Lane(Team& team, int id, int count, uint32_t stage) : team_(team), id_(id), count_(count), stage_(stage) {}

  Team& team_;
  const int id_;
  const int count_;
  uint32_t stage_;
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
