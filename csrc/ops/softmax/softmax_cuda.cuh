// What the softmax along the last axis and that along other axes share on the device.
#pragma once

#include "cuda/softmax_sums.cuh"
#include "ops/softmax/softmax.h"

namespace lamella::softmax::device {

constexpr const char* op = "softmax";

using lamella::device::Exponentials;
using lamella::device::minus_infinity;
using lamella::device::rescaled;

// What the exponentials are multiplied by, or what is subtracted from x - max.
template <bool logarithm>
__device__ inline float normalizer(float total) {
  return logarithm ? logf(total) : 1.0f / total;
}

template <bool logarithm>
__device__ inline float input_gradient(float dy, float y, float total) {
  return logarithm ? fmaf(-expf(y), total, dy) : y * (dy - total);
}

// Along an axis that is not the last. Defined in softmax_cuda_columns.cu.
template <bool logarithm>
void forward_columns(const Axis& axis, const float* x, float* y);
template <bool logarithm>
void backward_columns(const Axis& axis, const float* dy, const float* y, float* dx);

}  // namespace lamella::softmax::device
