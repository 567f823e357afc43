// The exponential of the hardware: one instruction where exp2f needs four.
#pragma once

#include "cuda/kernel.cuh"

namespace lamella::device {

// 2^x within 2 ulp; 0 below 2^-126, where floats are denormal.
__device__ inline float exp2_flushed(float x) {
#if defined(LAMELLA_SIMT)
  const float e = exp2f(x);
  return e < 0x1p-126f ? 0.0f : e;
#else
  float e;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(x));
  return e;
#endif
}

}  // namespace lamella::device
