// The sum of e^(x - max) over elements that come a few at a time, while the maximum of all is not
// yet known.
#pragma once

#include "cuda/kernel.cuh"

namespace lamella::device {

constexpr float minus_infinity = -__builtin_inff();

// `sum` is that of e^(x - max) over the elements met; of none, and of -inf alone, 0. NaN is lost in
// the maximum and found in the sum. So is +inf, of which e^(x - max) is NaN.
struct Exponentials {
  float max = minus_infinity;
  float sum = 0.0f;

  // One more maximum; what x is subtracted from for its exponential.
  __device__ float raise(float value) {
    if (value > max) {
      sum *= expf(max - value);
      max = value;
    }
    // -inf less -inf would be NaN where a finite element may still come.
    return max == minus_infinity ? 0.0f : max;
  }

  template <int count>
  __device__ void add(const float (&x)[count]) {
    float most = x[0];
#pragma unroll
    for (int k = 1; k < count; ++k) most = fmaxf(most, x[k]);
    const float origin = raise(most);
    float terms = 0.0f;
#pragma unroll
    for (int k = 0; k < count; ++k) terms += expf(x[k] - origin);
    sum += terms;
  }

  // NaN where all elements are -inf: 0 / 0 has no value.
  __device__ float total() const { return max == minus_infinity ? max - max : sum; }
};

// The sum beside a maximum of more elements.
__device__ inline float rescaled(const Exponentials& part, float max) {
  return part.max == max ? part.sum : part.sum * expf(part.max - max);
}

}  // namespace lamella::device
