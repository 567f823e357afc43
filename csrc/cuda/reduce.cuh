// Reductions over the lanes of a warp and the threads of a block, in an order that is fixed: the
// same bits from run to run.
//
// A warp reduces by xor shuffles, so that every lane gets the result, of the same bits. All lanes
// of the warp take part; with `width` (a power of two below 32) each aligned group of so many lanes
// reduces by itself. In a block every thread combines its warps' results, in their order.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/kernel.cuh"

namespace lamella::device {

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
// As fmaxf and fminf: of a NaN and a number, the number.
struct Maximum {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
  __device__ int operator()(int a, int b) const { return a < b ? b : a; }
  __device__ unsigned operator()(unsigned a, unsigned b) const { return a < b ? b : a; }
  __device__ std::int64_t operator()(std::int64_t a, std::int64_t b) const { return a < b ? b : a; }
};
struct Minimum {
  __device__ float operator()(float a, float b) const { return fminf(a, b); }
  __device__ int operator()(int a, int b) const { return b < a ? b : a; }
  __device__ unsigned operator()(unsigned a, unsigned b) const { return b < a ? b : a; }
  __device__ std::int64_t operator()(std::int64_t a, std::int64_t b) const { return b < a ? b : a; }
};
// NaN where any is NaN.
struct MaximumOrNan {
  __device__ float operator()(float a, float b) const { return a > b || a != a ? a : b; }
};

// __shfl_xor_sync for any trivial type whose size is a multiple of 4, a struct for instance.
template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int lane_mask) {
  static_assert(sizeof(T) % 4 == 0);
  unsigned words[sizeof(T) / 4];
  memcpy(words, &value, sizeof(T));
#pragma unroll
  for (unsigned i = 0; i < sizeof(T) / 4; ++i) {
    words[i] = __shfl_xor_sync(all_lanes, words[i], lane_mask);
  }
  memcpy(&value, words, sizeof(T));
  return value;
}

// op must be associative and commutative to within what the result may lose by rounding: lanes
// combine with the lane `width / 2` away first, with their neighbour last. (Each pair of lanes
// computes op(a, b) and op(b, a): where these can differ, as in which of two NaNs comes out, the
// lanes' results do too.)
template <int width = warp_size, class T, class Op>
__device__ __forceinline__ T warp_reduce(T value, Op op) {
  static_assert(width >= 1 && width <= warp_size && (width & (width - 1)) == 0);
#pragma unroll
  for (int distance = width / 2; distance > 0; distance /= 2) {
    value = op(value, shuffle_xor(value, distance));
  }
  return value;
}
template <int width = warp_size, class T>
__device__ __forceinline__ T warp_sum(T value) {
  return warp_reduce<width>(value, Sum());
}
template <int width = warp_size, class T>
__device__ __forceinline__ T warp_max(T value) {
  return warp_reduce<width>(value, Maximum());
}
template <int width = warp_size, class T>
__device__ __forceinline__ T warp_min(T value) {
  return warp_reduce<width>(value, Minimum());
}
template <int width = warp_size>
__device__ __forceinline__ float warp_max_or_nan(float value) {
  return warp_reduce<width>(value, MaximumOrNan());
}

// Over the block's `threads` (a multiple of 32, its size exactly, along x). `shared` has room for
// threads / 32 values; it is free again when this returns, and must be free for all threads before.
template <int threads, class T, class Op>
__device__ __forceinline__ T block_reduce(T value, Op op, T* shared) {
  static_assert(threads % warp_size == 0 && threads <= 1024);
  constexpr int warps = threads / warp_size;
  value = warp_reduce(value, op);
  if constexpr (warps > 1) {
    if (lane_index() == 0) shared[warp_index()] = value;
    __syncthreads();
    value = shared[0];
#pragma unroll
    for (int warp = 1; warp < warps; ++warp) value = op(value, shared[warp]);
    __syncthreads();
  }
  return value;
}
template <int threads, class T>
__device__ __forceinline__ T block_sum(T value, T* shared) {
  return block_reduce<threads>(value, Sum(), shared);
}
template <int threads, class T>
__device__ __forceinline__ T block_max(T value, T* shared) {
  return block_reduce<threads>(value, Maximum(), shared);
}
template <int threads, class T>
__device__ __forceinline__ T block_min(T value, T* shared) {
  return block_reduce<threads>(value, Minimum(), shared);
}
template <int threads>
__device__ __forceinline__ float block_max_or_nan(float value, float* shared) {
  return block_reduce<threads>(value, MaximumOrNan(), shared);
}

// The same with shared memory of their own; not for cooperative kernels.
template <int threads, class T, class Op>
__device__ T block_reduce(T value, Op op) {
  __shared__ T parts[threads / warp_size];
  return block_reduce<threads>(value, op, parts);
}
template <int threads, class T>
__device__ T block_sum(T value) {
  return block_reduce<threads>(value, Sum());
}
template <int threads, class T>
__device__ T block_max(T value) {
  return block_reduce<threads>(value, Maximum());
}
template <int threads, class T>
__device__ T block_min(T value) {
  return block_reduce<threads>(value, Minimum());
}
template <int threads>
__device__ float block_max_or_nan(float value) {
  return block_reduce<threads>(value, MaximumOrNan());
}

}  // namespace lamella::device
