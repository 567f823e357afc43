// What lamella.cuda.Array itself computes: conversions, fills and copies in another order.
#pragma once

#include <cstdint>

#include "cuda/dtype.h"

namespace lamella::device {

constexpr int permutation_axes = 64;  // NumPy's limit

// Element i of the result, in C order over the extents, is the element at the sum of index * stride
// of the source.
struct Permutation {
  int axes;
  std::int64_t size;
  std::int64_t extent[permutation_axes];
  std::int64_t stride[permutation_axes];
};

void permute(const char* op, const Permutation& permutation, const float* from, float* to);
void widen(const char* op, std::int64_t count, const std::int32_t* from, std::int64_t* to);
// Between float32, float16 and bfloat16: to nearest even.
void convert(const char* op, std::int64_t count, DType from_type, const void* from, DType to_type,
             void* to);
void fill(const char* op, std::int64_t count, float value, float* to);

}  // namespace lamella::device
