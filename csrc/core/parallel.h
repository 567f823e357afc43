// The thread pool. One pool for the process, of our own rather than OpenMP's, which hangs after
// fork and cannot be used by two callers at once.
//
// Work is cut by the problem and never by the number of threads: `run_parallel(tasks, ...)` calls
// `task(context, i, slot)` once for each i in [0, tasks), on any thread, in any order, and returns
// when all are done. A task must not throw. Inside a task, or while another Python thread is using
// the pool, run_parallel runs its tasks one after the other on the calling thread: the answer is
// the same.
//
// The size is LAMELLA_NUM_THREADS, else OMP_NUM_THREADS, else the number of physical cores in the
// affinity mask, at most the cgroup's CPU quota. Threads start at the first parallel call, spin
// for a few microseconds between calls, then sleep. A fork leaves the child with an empty pool
// that starts its own threads when it needs them.
#pragma once

#include <atomic>
#include <cstdint>

namespace lamella {

// `slot` numbers the threads of one call from 0: scratch memory of the call is indexed by it.
using TaskFunction = void (*)(void* context, std::int64_t task, int slot);

// At most `slots` threads take part, so every slot lies in [0, slots).
void run_parallel(std::int64_t tasks, int slots, TaskFunction task, void* context);

// Threads that run one task at the same time and can wait for one another in it.
class Team {
 public:
  explicit Team(int size) : size_(size) {}
  int size() const { return size_; }
  // Returns when all members have come: what they wrote before is visible after.
  void barrier();

 private:
  const int size_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> rounds_{0};
};

// Calls task(context, team, member) once for each member in [0, team.size()), each on a thread of
// its own. The team has at most `most` members, and only one where run_parallel would run its tasks
// one after the other.
using TeamFunction = void (*)(void* context, Team& team, int member);
void run_team(int most, TeamFunction task, void* context);

int num_threads();
// Throws ValueError unless 1 <= n <= 1024.
void set_num_threads(std::int64_t n);

}  // namespace lamella
