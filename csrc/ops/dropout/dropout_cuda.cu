// Dropout on the device: one pass over memory, which limits it; the random words of four elements,
// 20 multiplications, take about two thirds of that time on an H200.
#include "core/philox.h"
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "cuda/row_team.cuh"
#include "ops/dropout/dropout.h"

namespace lamella::dropout::device {
namespace {

using namespace lamella::device;

constexpr const char* op = "dropout";
constexpr int threads = 256;
// Counters of a thread.
constexpr int held = 2;

__device__ inline float kept(float x, std::uint32_t word, const Mask& mask) {
  return word < mask.threshold ? x * mask.scale : 0.0f;
}

// Counter c has the elements 4 c .. 4 c + 3.
__global__ void __launch_bounds__(threads)
    apply_mask(const Mask mask, std::int64_t size, bool aligned, const float* x, float* y) {
  const std::int64_t first = std::int64_t{blockIdx.x} * (threads * held) + threadIdx.x;
  if (aligned && 4 * (first + (held - 1) * threads) + 4 <= size) {
    float4 q[held];
#pragma unroll
    for (int k = 0; k < held; ++k) {
      q[k] = reinterpret_cast<const float4*>(x)[first + k * threads];
    }
#pragma unroll
    for (int k = 0; k < held; ++k) {
      const std::int64_t counter = first + k * threads;
      const Philox4 words = philox(mask.seed, static_cast<std::uint64_t>(counter));
      reinterpret_cast<float4*>(y)[counter] =
          make_float4(kept(q[k].x, words.word[0], mask), kept(q[k].y, words.word[1], mask),
                      kept(q[k].z, words.word[2], mask), kept(q[k].w, words.word[3], mask));
    }
    return;
  }
  for (int k = 0; k < held; ++k) {
    const std::int64_t counter = first + k * threads;
    const std::int64_t begin = 4 * counter;
    if (begin >= size) return;
    const Philox4 words = philox(mask.seed, static_cast<std::uint64_t>(counter));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (begin + j < size) y[begin + j] = kept(x[begin + j], words.word[j], mask);
    }
  }
}

void apply(Mask mask, std::int64_t size, const float* x, float* y) {
  const std::int64_t blocks = ceil_div<std::int64_t>(size, std::int64_t{4} * threads * held);
  launch(op, {dim3(static_cast<unsigned>(blocks)), dim3(threads)}, apply_mask, mask, size,
         aligned_for_vectors(x, y), x, y);
}

}  // namespace

extern const Kernels kernels = {apply};

}  // namespace lamella::dropout::device
