// The executor: runs a kernel's grid on the host, on the OS thread that launches it, with every
// CUDA thread a fiber. It exists to find the bugs that a GPU may hide:
//
// - Between two barriers threads run in an order that is shuffled anew each time (set_seed, or
//   LAMELLA_SIMT_SEED in the environment), blocks too. A thread runs until it meets a barrier, a
//   shuffle or vote, or, now and then, an atomic; so a missing barrier gives wrong results.
// - Dynamic shared memory is filled with NaNs before each block: reading what was not written
//   shows. Its ends are guarded: writing beyond them is an error (under AddressSanitizer the
//   access itself is). Static shared memory keeps what the last block left there.
// - Asynchronous copies land only where they are waited for; until then their destination is NaNs.
// - Every rule about which threads must meet where is checked; breaking one is a KernelError that
//   names the op, the block, the thread and the line.
//
// A loop that waits for another thread must call __nanosleep, or the other one never runs.
//
// What it cannot find: a missing fence, for here every write is seen at once, and accesses beyond
// the bounds of global and static shared memory (AddressSanitizer does).
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

#include "cuda/runtime.h"
#include "simt/vector_types.h"

namespace lamella::simt {

// A kernel broke a rule of CUDA. The launch is abandoned where it was; launches after it work.
struct KernelError : CudaError {
  using CudaError::CudaError;
};
// A barrier, shuffle or vote that can never complete, for other threads ended or wait elsewhere.
struct DivergentBarrier : KernelError {
  using KernelError::KernelError;
};

struct Shape {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes;
  bool cooperative;
};

// Runs body() once for each thread of the grid. One launch at a time: other OS threads wait.
// CudaError for a shape that no device takes; KernelError.
void run(const char* op, const Shape& shape, void (*body)(const void*), const void* closure);

template <class Closure>
void run(const char* op, const Shape& shape, const Closure& closure) {
  run(op, shape, [](const void* c) { (*static_cast<const Closure*>(c))(); }, &closure);
}

int resident_blocks(int threads, std::size_t shared_bytes);

// The order of threads is a function of the seed and of the number of launches since it was set.
void set_seed(std::uint64_t seed);

using Location = std::source_location;

// The rest is for the words of CUDA C++ in kernel.h; called by a thread of a kernel.

// Ends the launch with KernelError "<op>: <text>, at <line> in thread (..) of block (..)".
[[noreturn]] void fail(const char* text, Location where);

void* dynamic_shared(Location where);

enum class Vote { none, count, all, any };
// __syncthreads and its kin: `predicate` counted, or-ed or and-ed over the block.
int block_barrier(Vote vote, bool predicate, Location where);

// All threads of a cooperative grid.
void grid_barrier(unsigned* state, Location where);

enum class Exchange : unsigned char {
  shuffle,
  shuffle_up,
  shuffle_down,
  shuffle_xor,
  ballot,
  any,
  all,
  match_any,
  barrier,
  collective
};
// Meets the lanes of `mask`. Shuffles: the `value` of lane `source` (-1: one's own). Votes: `value`
// is the predicate, or what is matched.
std::uint64_t exchange(Exchange kind, unsigned mask, std::uint64_t value, int source,
                       Location where);

// All 32 lanes of the warp meet; then perform(arguments of the lanes in order) runs once. `name` is
// for messages; it returns a text where the arguments break a rule, else null.
using Collective = const char* (*)(void* const* arguments);
void collective(const char* name, Collective perform, void* argument, Location where);

int lane();

// Lets other threads run, if chance wills it: where CUDA promises nothing about their order.
void perhaps_yield();
// A thread waits in a loop of its own: others run. KernelError when nothing else happens for long.
void sleep(Location where);

// cp.async: see cuda/copy.cuh. Groups are the calling thread's own.
void copy_issue(void* shared, const void* global, int bytes, bool valid, Location where);
void copy_commit();
void copy_wait(int groups);

}  // namespace lamella::simt
