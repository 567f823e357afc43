// What lamella.cuda.Array itself computes: conversions, fills and copies in another order.
#pragma once

#include <cstdint>

#include "cuda/dtype.h"

namespace lamella::device {

constexpr int strided_axes = 64;  // NumPy's limit

// For each index over the extents the element at the sum of index * from_stride goes to the sum of
// index * to_stride. Strides count elements and may be negative; to_stride names no element twice.
struct StridedCopy {
  int axes;
  std::int64_t size;
  std::int64_t extent[strided_axes];
  std::int64_t from_stride[strided_axes];
  std::int64_t to_stride[strided_axes];
};

void copy_strided(const char* op, const StridedCopy& copy, std::size_t item_bytes, const void* from,
                  void* to);
void widen(const char* op, std::int64_t count, const std::int32_t* from, std::int64_t* to);
// Between float32, float16 and bfloat16: to nearest even.
void convert(const char* op, std::int64_t count, DType from_type, const void* from, DType to_type,
             void* to);
void fill(const char* op, std::int64_t count, float value, float* to);

}  // namespace lamella::device
