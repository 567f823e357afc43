// A barrier of all threads of a cooperative launch (Launch::cooperative).
//
//   GridBarrier barrier(op);                          // host: one word of scratch, zeroed
//   launch(op, {..., .cooperative = true}, kernel, ..., barrier.get());
//
//   __global__ void kernel(..., unsigned* barrier) {
//     ... grid_barrier(barrier); ...                  // any number of times
//
// The word comes from the pool and is zeroed on the stream; the object must live until the launch
// is queued, not longer. Each launch has one word and uses no other.
#pragma once

#include "cuda/kernel.cuh"
#include "cuda/runtime.h"

namespace lamella::device {

class GridBarrier {
 public:
  explicit GridBarrier(const char* op) : word_(op, 1) {
    fill_bytes(word_.get(), 0, sizeof(unsigned));
  }
  unsigned* get() const { return word_.get(); }

 private:
  Scratch<unsigned> word_;
};

// What any thread wrote before is seen by all threads after it, except through __ldg.
#if defined(LAMELLA_SIMT)

inline void grid_barrier(unsigned* barrier, simt::Location where = simt::Location::current()) {
  simt::grid_barrier(barrier, where);
}

#else

// The lower bits count the blocks that have come; what all blocks add together is 2^31, so that the
// last one flips the top bit and leaves the lower ones at 0. One thread a block waits for the flip.
__device__ __forceinline__ void grid_barrier(unsigned* barrier) {
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0) {
    const bool first = blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0;
    const unsigned blocks = gridDim.x * gridDim.y * gridDim.z;
    const unsigned step = first ? 0x80000000u - (blocks - 1) : 1u;
    unsigned before;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(barrier), "r"(step)
                 : "memory");
    unsigned now;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(barrier) : "memory");
    } while (((before ^ now) & 0x80000000u) == 0);
  }
  __syncthreads();
}

#endif

}  // namespace lamella::device
