// The language of the device sources: what every *_cuda.cu includes first. The same sources are
// compiled by nvcc for the GPU, and by the host compiler for the executor of csrc/simt, which has
// the words of CUDA C++ that are used here.
//
// Not used, because the executor has no counterpart: <<<>>> (see launch.cuh), cooperative groups,
// inline PTX outside csrc/cuda, warp-synchronous code without *_sync. By policy: no atomics on
// floats, whose order would change results from run to run.
#pragma once

#include <cstdint>

#if defined(LAMELLA_SIMT)
#include "simt/kernel.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

namespace lamella::device {

constexpr int warp_size = 32;
constexpr unsigned all_lanes = 0xFFFFFFFFu;

template <class T>
__host__ __device__ constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

template <class T>
__host__ __device__ constexpr T smaller(T a, T b) {
  return b < a ? b : a;
}

template <class T>
__host__ __device__ constexpr T larger(T a, T b) {
  return a < b ? b : a;
}

// The block's dynamic shared memory, aligned to 128 bytes: all of it, whatever T is. A kernel that
// keeps several arrays there cuts it itself.
#if defined(LAMELLA_SIMT)
template <class T>
T* dynamic_shared(simt::Location where = simt::Location::current()) {
  return static_cast<T*>(simt::dynamic_shared(where));
}
#else
extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];

template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  return reinterpret_cast<T*>(dynamic_shared_memory);
}
#endif

// This thread's place in its warp, and its warp's in the block. Blocks of one axis.
__device__ inline int lane_index() {
  return static_cast<int>(threadIdx.x) % warp_size;
}
__device__ inline int warp_index() {
  return static_cast<int>(threadIdx.x) / warp_size;
}

// This thread's number in the whole grid, and the grid's threads: for loops over elements. One
// axis.
__device__ inline std::int64_t grid_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline std::int64_t grid_threads() {
  return static_cast<std::int64_t>(gridDim.x) * blockDim.x;
}

}  // namespace lamella::device
