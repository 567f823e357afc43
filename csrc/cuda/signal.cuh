// Counting in a word of global memory, between blocks of a cooperative launch: one thread of each
// block that has something to hand over adds to the word behind a __syncthreads(); one thread of a
// block that wants it waits, in front of one.
#pragma once

#include "cuda/kernel.cuh"

namespace lamella::device {

// What the block wrote before is seen by whoever waits.
__device__ __forceinline__ void signal_add(unsigned* word, unsigned count) {
#if defined(LAMELLA_SIMT)
  atomicAdd(word, count);
#else
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" : : "l"(word), "r"(count) : "memory");
#endif
}

// Until the word has come to `target`, which it passes by less than 2^31.
__device__ __forceinline__ void signal_wait(const unsigned* word, unsigned target) {
#if defined(LAMELLA_SIMT)
  while (static_cast<int>(*static_cast<const volatile unsigned*>(word) - target) < 0) {
    __nanosleep(0);  // the executor runs other threads
  }
#else
  unsigned now;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(word) : "memory");
  } while (static_cast<int>(now - target) < 0);
#endif
}

}  // namespace lamella::device
