// parallel_for for the sources compiled per instruction set: the closure's type and the small
// function that calls it live in the set's namespace; only the thread pool is shared.
#pragma once

#include "core/parallel.h"
#include "simd/vec.h"

namespace lamella::LAMELLA_ISA {

// body(i) for each i in [0, tasks); see core/parallel.h. body must not throw.
template <class Body>
LAMELLA_INLINE void parallel_for(std::int64_t tasks, const Body& body) {
  run_parallel(
      tasks, num_threads(),
      [](void* context, std::int64_t i, int) { (*static_cast<const Body*>(context))(i); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// body(i, slot) with slot in [0, slots): for tasks that need scratch memory of their own.
template <class Body>
LAMELLA_INLINE void parallel_for_slots(std::int64_t tasks, int slots, const Body& body) {
  run_parallel(
      tasks, slots,
      [](void* context, std::int64_t i, int slot) {
        (*static_cast<const Body*>(context))(i, slot);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// body(team, member) on at most `most` threads at once; see core/parallel.h.
template <class Body>
LAMELLA_INLINE void parallel_team(int most, const Body& body) {
  run_team(
      most,
      [](void* context, Team& team, int member) {
        (*static_cast<const Body*>(context))(team, member);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// Cuts [0, size) into chunks of `chunk` (the last one shorter): body(begin, end). The cut depends
// on the problem alone, so sums over chunks are the same for any number of threads.
template <class Body>
LAMELLA_INLINE void parallel_chunks(std::int64_t size, std::int64_t chunk, const Body& body) {
  parallel_for(ceil_div(size, chunk),
               [&](std::int64_t i) { body(i * chunk, min_i(size, (i + 1) * chunk)); });
}

}  // namespace lamella::LAMELLA_ISA
