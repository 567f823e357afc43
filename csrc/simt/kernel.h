// The words of CUDA C++ for the host compiler: what cuda/kernel.cuh includes for the executor.
//
// Sources are compiled with -x c++ -DLAMELLA_SIMT -Wno-unknown-pragmas (for #pragma unroll).
// Not here: what the executor has no counterpart for, and by policy atomics on floats.
#pragma once

#include <math.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "simt/executor.h"
#include "simt/vector_types.h"

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// One block at a time runs on the executor; cooperative kernels must not use it. It is not refilled
// between blocks: a kernel that reads what it has not written reads what another block left.
#define __shared__ static

extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
constexpr int warpSize = 32;

#include "simt/atomics.h"
#include "simt/half.h"
#include "simt/intrinsics.h"
#include "simt/warp.h"
