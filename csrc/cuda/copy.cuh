// Asynchronous copies from global to shared memory: cp.async on compute capability 8.0 and later,
// copies that are over at once on 7.5. On the executor they land where they are waited for and no
// earlier, and their destination is NaNs until then.
//
//   copy_async<16>(&shared[...], &global[...]);   // any number
//   copy_commit();                                // they are one group
//   ...
//   copy_wait<1>();                               // all groups but the last 1 have landed
//   __syncthreads();                              // those of the other threads too
//
// A wait is for the calling thread's own copies. Both addresses must be multiples of the size.
#pragma once

#include <cstdint>

#include "cuda/kernel.cuh"

namespace lamella::device {

// `size` bytes: 4, 8 or 16. Not valid: zeros, and `global` is not read.
#if defined(LAMELLA_SIMT)

template <int size>
void copy_async(void* shared, const void* global, bool valid = true,
                simt::Location where = simt::Location::current()) {
  static_assert(size == 4 || size == 8 || size == 16);
  simt::copy_issue(shared, global, size, valid, where);
}
inline void copy_commit() {
  simt::copy_commit();
}
template <int groups>
void copy_wait() {
  static_assert(groups >= 0);
  simt::copy_wait(groups);
}

#else

template <int size>
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid = true) {
  static_assert(size == 4 || size == 8 || size == 16);
#if __CUDA_ARCH__ >= 800
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? size : 0;  // the rest of `size` is filled with zeros
  if constexpr (size == 16) {          // around L1, where no other thread will look for it
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(size),
                 "r"(bytes)
                 : "memory");
  }
#else
  if constexpr (size == 16) {
    *static_cast<int4*>(shared) = valid ? *static_cast<const int4*>(global) : make_int4(0, 0, 0, 0);
  } else if constexpr (size == 8) {
    *static_cast<int2*>(shared) = valid ? *static_cast<const int2*>(global) : make_int2(0, 0);
  } else {
    *static_cast<int*>(shared) = valid ? *static_cast<const int*>(global) : 0;
  }
#endif
}

__device__ __forceinline__ void copy_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int groups>
__device__ __forceinline__ void copy_wait() {
  static_assert(groups >= 0);
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
#endif
}

#endif

}  // namespace lamella::device
