// Rotary embedding on the device: one pass over memory, which limits it. A thread turns four pairs
// (or one, where 16-byte accesses are not possible); cos and sin are shared by the heads of a
// position and come from L1 or L2.
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "cuda/pointwise.cuh"
#include "cuda/row_team.cuh"
#include "ops/rotary_embedding/rotary_embedding.h"

namespace lamella::rotary_embedding::device {
namespace {

using namespace lamella::device;

constexpr int threads = 256;

// Pairs [pair, pair + width) of one head.
template <int width>
__device__ void turn_pairs(const Problem& p, std::int64_t position, std::int64_t row,
                           std::int64_t pair, const float* x, float* y) {
  const std::int64_t angle = position % p.period * p.half + pair;
  const Elements<width> c = load_elements<width>(p.cos, angle);
  Elements<width> s = load_elements<width>(p.sin, angle);
  Elements<width> first, second;
  const std::int64_t begin = row * 2 * p.half;
  if (p.interleaved) {
    float both[2 * width];
    if constexpr (width == 4) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const Elements<4> q = load_elements<4>(x, begin + 2 * pair + 4 * h);
#pragma unroll
        for (int k = 0; k < 4; ++k) both[4 * h + k] = q.v[k];
      }
    } else {
      both[0] = x[begin + 2 * pair];
      both[1] = x[begin + 2 * pair + 1];
    }
#pragma unroll
    for (int k = 0; k < width; ++k) {
      first.v[k] = both[2 * k];
      second.v[k] = both[2 * k + 1];
    }
  } else {
    first = load_elements<width>(x, begin + pair);
    second = load_elements<width>(x, begin + p.half + pair);
  }
  Elements<width> turned_first, turned_second;
#pragma unroll
  for (int k = 0; k < width; ++k) {
    const float sin = p.backward ? -s.v[k] : s.v[k];
    turned_first.v[k] = fmaf(-second.v[k], sin, first.v[k] * c.v[k]);
    turned_second.v[k] = fmaf(first.v[k], sin, second.v[k] * c.v[k]);
  }
  if (!p.interleaved) {
    store_elements<width>(y, begin + pair, turned_first);
    store_elements<width>(y, begin + p.half + pair, turned_second);
  } else if constexpr (width == 4) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      store_elements<4>(y, begin + 2 * pair + 4 * h,
                        {{turned_first.v[2 * h], turned_second.v[2 * h], turned_first.v[2 * h + 1],
                          turned_second.v[2 * h + 1]}});
    }
  } else {
    y[begin + 2 * pair] = turned_first.v[0];
    y[begin + 2 * pair + 1] = turned_second.v[0];
  }
}

template <int width>
__global__ void __launch_bounds__(threads)
    turn_rows(const Problem p, std::int64_t size, const float* x, float* y) {
  const std::int64_t units = p.half / width;
  for (std::int64_t i = grid_thread(); i < size; i += grid_threads()) {
    const std::int64_t row = i / units;
    turn_pairs<width>(p, row / p.heads, row, (i - row * units) * width, x, y);
  }
}

template <int width>
void launch_turn(const Problem& p, const float* x, float* y) {
  const std::int64_t size = p.positions * p.heads * (p.half / width);
  constexpr std::int64_t most = 1 << 30;
  const std::int64_t blocks = smaller(most, ceil_div<std::int64_t>(size, threads));
  launch(p.op, {dim3(static_cast<unsigned>(blocks)), dim3(threads)}, turn_rows<width>, p, size, x,
         y);
}

void turn(const Problem& p, const float* x, float* y) {
  p.half % 4 == 0 && aligned_for_vectors(x, y, p.cos, p.sin) ? launch_turn<4>(p, x, y)
                                                             : launch_turn<1>(p, x, y);
}

}  // namespace

extern const Kernels kernels = {turn};

}  // namespace lamella::rotary_embedding::device
