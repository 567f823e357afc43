#include "cuda/kernel.cuh"

#include "cuda/launch.cuh"

#include "cuda/array_kernels.h"

namespace lamella::device {
namespace {

template <class T>
__global__ void copy_strided_kernel(const StridedCopy c, const T* from, T* to) {
  for (std::int64_t i = grid_thread(); i < c.size; i += grid_threads()) {
    std::int64_t rest = i;
    std::int64_t source = 0;
    std::int64_t target = 0;
    for (int axis = c.axes - 1; axis >= 0; --axis) {
      const std::int64_t index = rest % c.extent[axis];
      source += index * c.from_stride[axis];
      target += index * c.to_stride[axis];
      rest /= c.extent[axis];
    }
    to[target] = from[source];
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

void copy_strided(const char* op, const StridedCopy& copy, std::size_t item_bytes, const void* from,
                  void* to) {
  const auto run = [&](auto item) {
    using T = decltype(item);
    launch(op, elements(copy.size), copy_strided_kernel<T>, copy, static_cast<const T*>(from),
           static_cast<T*>(to));
  };
  switch (item_bytes) {
    case 1:
      return run(std::uint8_t{});
    case 2:
      return run(std::uint16_t{});
    case 4:
      return run(std::uint32_t{});
    default:
      return run(std::uint64_t{});
  }
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
