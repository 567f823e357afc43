#include "cuda/kernel.cuh"

#include "cuda/launch.cuh"

#include "cuda/array_kernels.h"

namespace lamella::device {
namespace {

__global__ void permute_kernel(const Permutation p, const float* from, float* to) {
  for (std::int64_t i = grid_thread(); i < p.size; i += grid_threads()) {
    std::int64_t rest = i;
    std::int64_t at = 0;
    for (int axis = p.axes - 1; axis >= 0; --axis) {
      at += rest % p.extent[axis] * p.stride[axis];
      rest /= p.extent[axis];
    }
    to[i] = from[at];
  }
}

__global__ void widen_kernel(std::int64_t count, const std::int32_t* from, std::int64_t* to) {
  for (std::int64_t i = grid_thread(); i < count; i += grid_threads()) to[i] = from[i];
}

__global__ void fill_kernel(std::int64_t count, float value, float* to) {
  for (std::int64_t i = grid_thread(); i < count; i += grid_threads()) to[i] = value;
}

__device__ inline float widened(float x) {
  return x;
}
__device__ inline float widened(__half x) {
  return __half2float(x);
}
__device__ inline float widened(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
template <class T>
__device__ T narrowed(float x);
template <>
__device__ inline float narrowed<float>(float x) {
  return x;
}
template <>
__device__ inline __half narrowed<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 narrowed<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

template <class From, class To>
__global__ void convert_kernel(std::int64_t count, const From* from, To* to) {
  for (std::int64_t i = grid_thread(); i < count; i += grid_threads()) {
    to[i] = narrowed<To>(widened(from[i]));
  }
}

template <class From>
void convert_from(const char* op, std::int64_t count, const From* from, DType to_type, void* to) {
  const Launch shape = elements(count);
  switch (to_type) {
    case DType::float16:
      launch(op, shape, convert_kernel<From, __half>, count, from, static_cast<__half*>(to));
      break;
    case DType::bfloat16:
      launch(op, shape, convert_kernel<From, __nv_bfloat16>, count, from,
             static_cast<__nv_bfloat16*>(to));
      break;
    default:
      launch(op, shape, convert_kernel<From, float>, count, from, static_cast<float*>(to));
  }
}

}  // namespace

void permute(const char* op, const Permutation& permutation, const float* from, float* to) {
  launch(op, elements(permutation.size), permute_kernel, permutation, from, to);
}

void widen(const char* op, std::int64_t count, const std::int32_t* from, std::int64_t* to) {
  launch(op, elements(count), widen_kernel, count, from, to);
}

void fill(const char* op, std::int64_t count, float value, float* to) {
  launch(op, elements(count), fill_kernel, count, value, to);
}

void convert(const char* op, std::int64_t count, DType from_type, const void* from, DType to_type,
             void* to) {
  switch (from_type) {
    case DType::float16:
      return convert_from(op, count, static_cast<const __half*>(from), to_type, to);
    case DType::bfloat16:
      return convert_from(op, count, static_cast<const __nv_bfloat16*>(from), to_type, to);
    default:
      return convert_from(op, count, static_cast<const float*>(from), to_type, to);
  }
}

}  // namespace lamella::device
