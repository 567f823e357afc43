// What becomes of a product's sums on their way to memory.
#pragma once

#include <type_traits>

#include "cuda/gemm_operand.cuh"
#include "cuda/math.cuh"

namespace lamella::device::gemm {

template <class T>
__device__ inline T rounded(float v) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16(v);
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half(v);
  } else {
    return v;
  }
}

// `width` neighbouring elements, in one access where `whole` (then p is aligned to them).
template <class T, int width>
__device__ inline void write(T* p, const float (&values)[width], int count, bool whole) {
  struct alignas(sizeof(T) * width) Vector {
    T element[width];
  };
  if (whole) {
    Vector v;
#pragma unroll
    for (int i = 0; i < width; ++i) v.element[i] = rounded<T>(values[i]);
    *reinterpret_cast<Vector*>(p) = v;
    return;
  }
#pragma unroll
  for (int i = 0; i < width; ++i) {
    if (i < count) p[i] = rounded<T>(values[i]);
  }
}

template <int width>
__device__ inline void add_bias(const float* bias, std::int64_t column, int count,
                                float (&values)[width]) {
  if (bias == nullptr) return;
#pragma unroll
  for (int i = 0; i < width; ++i) {
    if (i < count) values[i] += __ldg(bias + column + i);
  }
}

// Element (row, column) of result r is c[offsets.at(r) + row * row_stride + column].
template <class T>
struct StoreAs {
  static constexpr bool unrolled = true;

  T* c;
  Offsets offsets;
  std::int64_t row_stride;
  bool vectors;       // c, offsets and row_stride allow 16-byte accesses
  bool accumulate;    // c += the sums
  const float* bias;  // (n) or null; not with accumulate

  template <int width>
  __device__ void operator()(std::int64_t result, std::int64_t row, std::int64_t column, int count,
                             float (&values)[width]) const {
    T* const p = c + offsets.at(result) + row * row_stride + column;
    add_bias(bias, column, count, values);
    if (accumulate) {
#pragma unroll
      for (int i = 0; i < width; ++i) {
        if (i < count) values[i] += static_cast<float>(p[i]);
      }
    }
    write(p, values, count, vectors && count == width);
  }
};

using Store = StoreAs<float>;

// c = f(sums + bias), and the activation's argument to pre_activation, which lies like c.
struct Activate {
  static constexpr bool unrolled = false;

  float* c;
  float* pre_activation;  // or null
  Offsets offsets;
  std::int64_t row_stride;
  bool vectors;  // both, offsets and row_stride allow 16-byte accesses
  const float* bias;
  Activation f;

  template <int width>
  __device__ void operator()(std::int64_t result, std::int64_t row, std::int64_t column, int count,
                             float (&values)[width]) const {
    const std::int64_t at = offsets.at(result) + row * row_stride + column;
    const bool whole = vectors && count == width;
    add_bias(bias, column, count, values);
    if (pre_activation != nullptr) write(pre_activation + at, values, count, whole);
    activate(f, values);
    write(c + at, values, count, whole);
  }
};

}  // namespace lamella::device::gemm
