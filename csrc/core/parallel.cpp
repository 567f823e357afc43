#include "core/parallel.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"

namespace lamella {
namespace {

constexpr int max_threads = 1024;
// About 30 us on current CPUs: longer than the Python code between two ops of a training step.
constexpr int spins_before_sleep = 1 << 10;

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Condition>
void wait_until(const Condition& condition) {
  for (int spins = 0; !condition(); ++spins) {
    pause();
    // More threads than CPUs: the one we wait for may need this one.
    if (spins > spins_before_sleep) std::this_thread::yield();
  }
}

int environment_threads(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) return 0;
  // OMP_NUM_THREADS may be a list by nesting level: the first entry is meant.
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (end == text || value < 1) return 0;
  return static_cast<int>(std::min<long>(value, max_threads));
}

// Physical cores among the CPUs this process may run on: two hyperthreads share one set of FMA
// units, so the second one only adds cache misses.
int cores_in_affinity_mask() {
#if defined(__linux__)
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
    std::set<std::string> cores;
    int cpus = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &mask)) continue;
      ++cpus;
      std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                         "/topology/thread_siblings_list");
      std::string siblings;
      cores.insert(std::getline(file, siblings) ? siblings : "cpu" + std::to_string(cpu));
    }
    if (cpus > 0) return static_cast<int>(cores.size());
  }
#endif
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

// The cgroup's CPU quota in whole CPUs, rounded up; 0 when there is none.
int cgroup_quota() {
  double quota = -1.0;
  double period = 0.0;
  if (std::ifstream v2("/sys/fs/cgroup/cpu.max"); v2) {
    std::string first;
    v2 >> first >> period;
    if (!first.empty() && first != "max") quota = std::strtod(first.c_str(), nullptr);
  } else {
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> quota;
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  }
  if (quota <= 0.0 || period <= 0.0) return 0;
  return std::max(1, static_cast<int>(std::ceil(quota / period)));
}

int default_threads() {
  for (const char* name : {"LAMELLA_NUM_THREADS", "OMP_NUM_THREADS"}) {
    if (const int n = environment_threads(name); n > 0) return n;
  }
  int n = cores_in_affinity_mask();
  if (const int quota = cgroup_quota(); quota > 0) n = std::min(n, quota);
  return std::clamp(n, 1, max_threads);
}

// Each thread has a share of the tasks, a run of neighbours, and takes from the others' shares when
// its own is done. Calls over the same batch cut it alike, so what one op wrote is still in the
// cache of the core that reads it in the next.
//
// One call at a time (the caller holds `pool_mutex`). A worker first counts itself into `inside`
// and only then looks whether the job is open; the caller closes the job and then waits for
// `inside` to drop to zero. So a worker that wakes too late finds a closed job, and the caller
// never waits for a worker that is still asleep.
class Pool {
 public:
  explicit Pool(int threads) : shares_(static_cast<std::size_t>(threads)) {
    workers_.reserve(static_cast<std::size_t>(threads - 1));
    try {
      for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
    } catch (const std::system_error&) {
      // The process may not start more threads: the ones there are do the work.
    }
  }

  ~Pool() {
    stop_.store(true);
    generation_.fetch_add(1);
    generation_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void run(std::int64_t tasks, int slots, TaskFunction task, void* context) {
    parts_ = std::min(slots, static_cast<int>(workers_.size()) + 1);
    task_ = task;
    context_ = context;
    const std::int64_t least = tasks / parts_;
    const std::int64_t rest = tasks % parts_;
    std::int64_t begin = 0;
    for (int i = 0; i < parts_; ++i) {
      Share& share = shares_[static_cast<std::size_t>(i)];
      share.next.store(begin, std::memory_order_relaxed);
      share.end = begin += least + (i < rest ? 1 : 0);
    }
    open_.store(true);
    generation_.fetch_add(1);
    if (sleepers_.load() > 0) generation_.notify_all();
    take_tasks(0);
    open_.store(false);
    wait_until([this] { return inside_.load() == 0; });
  }

  void run_team(int most, TeamFunction task, void* context) {
    parts_ = std::min(most, static_cast<int>(workers_.size()) + 1);
    Team team(parts_);
    team_ = &team;
    team_task_ = task;
    context_ = context;
    finished_.store(1);
    open_.store(true);
    generation_.fetch_add(1);
    if (sleepers_.load() > 0) generation_.notify_all();
    task(context, team, 0);
    // No member may be missed: the job stays open until all have been through it.
    wait_until([this] { return finished_.load() == parts_; });
    open_.store(false);
    wait_until([this] { return inside_.load() == 0; });
    team_ = nullptr;
  }

  // The threads of the parent do not exist in a forked child: forget them.
  void abandon() {
    for (std::thread& worker : workers_) worker.detach();
  }

 private:
  struct alignas(64) Share {
    std::atomic<std::int64_t> next{0};
    std::int64_t end = 0;
  };

  void take_part(int slot) {
    if (team_ == nullptr) return take_tasks(slot);
    team_task_(context_, *team_, slot);
    finished_.fetch_add(1);
  }

  void take_tasks(int slot) {
    for (int i = 0; i < parts_; ++i) {
      Share& share = shares_[static_cast<std::size_t>((slot + i) % parts_)];
      while (share.next.load(std::memory_order_relaxed) < share.end) {
        const std::int64_t task = share.next.fetch_add(1, std::memory_order_relaxed);
        if (task < share.end) task_(context_, task, slot);
      }
    }
  }

  void work(int slot);

  std::vector<std::thread> workers_;
  std::vector<Share> shares_;
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<int> generation_{0};
  std::atomic<int> sleepers_{0};
  alignas(64) std::atomic<int> inside_{0};
  std::atomic<bool> open_{false};
  int parts_ = 0;
  TaskFunction task_ = nullptr;
  void* context_ = nullptr;
  Team* team_ = nullptr;  // null: the job is one of tasks
  TeamFunction team_task_ = nullptr;
  std::atomic<int> finished_{0};  // members of the team
};

thread_local bool inside_task = false;

void Pool::work(int slot) {
  inside_task = true;
  int seen = 0;
  for (;;) {
    int spins = 0;
    while (generation_.load(std::memory_order_acquire) == seen) {
      if (++spins < spins_before_sleep) {
        pause();
        continue;
      }
      sleepers_.fetch_add(1);
      generation_.wait(seen);
      sleepers_.fetch_sub(1);
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load()) return;
    inside_.fetch_add(1);
    if (open_.load() && slot < parts_) take_part(slot);
    inside_.fetch_sub(1);
  }
}

// Never destroyed: at exit other threads may still be computing, and joining workers from a static
// destructor can deadlock. The mutexes are plain pthread ones so that a forked child can reset
// them.
struct Shared {
  std::mutex pool_mutex;
  Pool* pool = nullptr;
  std::atomic<int> threads{default_threads()};
};

Shared& shared() {
  static Shared* instance = [] {
    auto* s = new Shared;
    // A fork while a job runs waits for its end, so the child's copy is at rest.
    pthread_atfork([] { shared().pool_mutex.lock(); }, [] { shared().pool_mutex.unlock(); },
                   [] {
                     Shared& child = shared();
                     if (child.pool != nullptr) child.pool->abandon();
                     child.pool = nullptr;
                     child.pool_mutex.unlock();
                   });
    return s;
  }();
  return *instance;
}

void run_serial(std::int64_t tasks, TaskFunction task, void* context) {
  for (std::int64_t i = 0; i < tasks; ++i) task(context, i, 0);
}

}  // namespace

void run_parallel(std::int64_t tasks, int slots, TaskFunction task, void* context) {
  if (tasks <= 1 || slots <= 1 || inside_task) return run_serial(tasks, task, context);
  Shared& s = shared();
  const int threads = s.threads.load(std::memory_order_relaxed);
  if (threads == 1) return run_serial(tasks, task, context);
  std::unique_lock lock(s.pool_mutex, std::try_to_lock);
  if (!lock.owns_lock()) return run_serial(tasks, task, context);
  if (s.pool == nullptr) s.pool = new Pool(threads);
  inside_task = true;
  s.pool->run(tasks, slots, task, context);
  inside_task = false;
}

void run_team(int most, TeamFunction task, void* context) {
  Shared& s = shared();
  const int threads = s.threads.load(std::memory_order_relaxed);
  std::unique_lock<std::mutex> lock;
  if (most > 1 && threads > 1 && !inside_task)
    lock = std::unique_lock(s.pool_mutex, std::try_to_lock);
  if (!lock.owns_lock()) {
    Team alone(1);
    return task(context, alone, 0);
  }
  if (s.pool == nullptr) s.pool = new Pool(threads);
  inside_task = true;
  s.pool->run_team(most, task, context);
  inside_task = false;
}

void Team::barrier() {
  if (size_ == 1) return;
  const int round = rounds_.load();
  if (arrived_.fetch_add(1) + 1 == size_) {
    arrived_.store(0);
    rounds_.store(round + 1);
    return;
  }
  wait_until([&] { return rounds_.load(std::memory_order_acquire) != round; });
}

int num_threads() {
  return shared().threads.load();
}

void set_num_threads(std::int64_t n) {
  if (n < 1 || n > max_threads) {
    throw ValueError(
        message("the number of threads must lie in [1, ", max_threads, "]; received ", n));
  }
  Shared& s = shared();
  std::lock_guard lock(s.pool_mutex);
  if (n == s.threads.load()) return;
  delete s.pool;
  s.pool = nullptr;
  s.threads.store(static_cast<int>(n));
}

}  // namespace lamella
