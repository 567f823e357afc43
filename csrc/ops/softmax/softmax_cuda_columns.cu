// softmax and log_softmax on the device along an axis that is not the last. What limits them is
// memory. A block's threads lie across neighbouring columns, so that accesses are whole lines, and
// down the axis, whose parts they combine in shared memory. Short axes stay in registers between
// one read and one write; longer ones are read twice, the second time backwards, from L1 and L2 as
// far as these hold them.
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "cuda/row_team.cuh"
#include "ops/softmax/softmax_cuda.cuh"

namespace lamella::softmax::device {
namespace {

using namespace lamella::device;

constexpr int threads = 256;
// Elements of a column that a thread has at a time.
constexpr int forward_held = 8;
constexpr int backward_held = 4;

// The threads of a block: `across` units of `width` neighbouring columns, times `down` shares of
// the axis, times `outers`. Powers of two, whose product is `threads`.
struct Tile {
  Axis axis;
  std::int64_t groups;  // of columns, side by side
  int across;
  int down;
  int outers;
};

int power_of_two_from(std::int64_t n, int most) {
  int p = 1;
  while (p < most && p < n) p *= 2;
  return p;
}

// As many threads down as there is work for them, but whole lines across.
Tile plan(const Axis& axis, int width, int held) {
  const std::int64_t units = axis.inner / width;
  const int line = 32 / width;
  Tile tile = {axis, 0, 0, 0, 0};
  const int down = power_of_two_from(ceil_div<std::int64_t>(axis.size, held), threads);
  tile.across = power_of_two_from(units, larger(line, threads / down));
  tile.down = smaller(down, threads / tile.across);
  tile.outers = threads / (tile.across * tile.down);
  tile.groups = ceil_div<std::int64_t>(units, tile.across);
  return tile;
}

Launch tile_launch(const Tile& tile) {
  const std::int64_t blocks =
      tile.groups * ceil_div<std::int64_t>(tile.axis.outer, std::int64_t{tile.outers});
  return {dim3(static_cast<unsigned>(blocks)), dim3(threads)};
}

// The columns of this thread, and its elements of them.
template <int width>
struct Columns {
  std::int64_t first;   // element of the array
  std::int64_t stride;  // from one element of a column to the next
  std::int64_t size;    // of the axis; 0 where there is no column
  int share;            // of the axis
  int shares;
  int spacing;  // threads from one share to the next

  __device__ explicit Columns(const Tile& tile) : stride(tile.axis.inner), shares(tile.down) {
    const int thread = static_cast<int>(threadIdx.x);
    const std::int64_t group = blockIdx.x % static_cast<unsigned long long>(tile.groups);
    const std::int64_t outer =
        static_cast<std::int64_t>(blockIdx.x / static_cast<unsigned long long>(tile.groups)) *
            tile.outers +
        thread / (tile.across * tile.down);
    const std::int64_t column = (group * tile.across + thread % tile.across) * width;
    share = thread / tile.across % tile.down;
    spacing = tile.across;
    size = outer < tile.axis.outer && column < stride ? tile.axis.size : 0;
    first = outer * tile.axis.size * stride + column;
  }

  __device__ std::int64_t row(std::int64_t begin, int k) const {
    return begin + std::int64_t{k} * shares + share;
  }
  __device__ std::int64_t step(int held) const { return std::int64_t{held} * shares; }
  // Steps down the axis, the same number in all threads of a block.
  __device__ std::int64_t steps(const Tile& tile, int held) const {
    return ceil_div(tile.axis.size, step(held));
  }

  template <int held>
  __device__ void load(const float* x, std::int64_t begin, float absent,
                       float (&v)[held][width]) const {
#pragma unroll
    for (int k = 0; k < held; ++k) {
      const std::int64_t r = row(begin, k);
      if constexpr (width == 4) {
        float4 q = make_float4(absent, absent, absent, absent);
        if (r < size) q = *reinterpret_cast<const float4*>(x + first + r * stride);
        v[k][0] = q.x;
        v[k][1] = q.y;
        v[k][2] = q.z;
        v[k][3] = q.w;
      } else {
        v[k][0] = r < size ? x[first + r * stride] : absent;
      }
    }
  }

  template <int held>
  __device__ void store(float* y, std::int64_t begin, const float (&v)[held][width]) const {
#pragma unroll
    for (int k = 0; k < held; ++k) {
      const std::int64_t r = row(begin, k);
      if (r >= size) continue;
      if constexpr (width == 4) {
        *reinterpret_cast<float4*>(y + first + r * stride) =
            make_float4(v[k][0], v[k][1], v[k][2], v[k][3]);
      } else {
        y[first + r * stride] = v[k][0];
      }
    }
  }
};

// The values of a column's shares combined, in all of its threads. shared: threads * width floats.
template <class Op, int width>
__device__ void reduce_columns(const Columns<width>& columns, float (&v)[width], float* shared) {
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();
#pragma unroll
  for (int w = 0; w < width; ++w) shared[w * threads + thread] = v[w];
  for (int half = columns.shares / 2; half > 0; half /= 2) {
    __syncthreads();
    if (columns.share < half) {
#pragma unroll
      for (int w = 0; w < width; ++w) {
        float* const own = shared + w * threads + thread;
        *own = Op()(*own, own[half * columns.spacing]);
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int w = 0; w < width; ++w) {
    v[w] = shared[w * threads + thread - columns.share * columns.spacing];
  }
}

template <int width, bool logarithm>
__global__ void __launch_bounds__(threads) forward_tile(const Tile tile, const float* x, float* y) {
  __shared__ float shared[threads * width];
  const Columns<width> columns(tile);
  const std::int64_t step = columns.step(forward_held);
  const std::int64_t steps = columns.steps(tile, forward_held);
  float v[forward_held][width];
  Exponentials own[width];
  for (std::int64_t s = 0; s < steps; ++s) {
    columns.load(x, s * step, minus_infinity, v);
#pragma unroll
    for (int w = 0; w < width; ++w) {
      float column[forward_held];
#pragma unroll
      for (int k = 0; k < forward_held; ++k) column[k] = v[k][w];
      own[w].add(column);
    }
  }
  float most[width], factor[width];
#pragma unroll
  for (int w = 0; w < width; ++w) most[w] = own[w].max;
  reduce_columns<Maximum>(columns, most, shared);
#pragma unroll
  for (int w = 0; w < width; ++w) factor[w] = rescaled(own[w], most[w]);
  reduce_columns<Sum>(columns, factor, shared);
#pragma unroll
  for (int w = 0; w < width; ++w) {
    factor[w] = normalizer<logarithm>(Exponentials{most[w], factor[w]}.total());
  }
  for (std::int64_t s = steps - 1; s >= 0; --s) {
    if (steps > 1) columns.load(x, s * step, minus_infinity, v);
#pragma unroll
    for (int k = 0; k < forward_held; ++k) {
#pragma unroll
      for (int w = 0; w < width; ++w) {
        const float d = v[k][w] - most[w];
        v[k][w] = logarithm ? d - factor[w] : expf(d) * factor[w];
      }
    }
    columns.store(y, s * step, v);
  }
}

template <int width, bool logarithm>
__global__ void __launch_bounds__(threads)
    backward_tile(const Tile tile, const float* dy, const float* y, float* dx) {
  __shared__ float shared[threads * width];
  const Columns<width> columns(tile);
  const std::int64_t step = columns.step(backward_held);
  const std::int64_t steps = columns.steps(tile, backward_held);
  float gradient[backward_held][width], result[backward_held][width];
  float total[width] = {};
  for (std::int64_t s = 0; s < steps; ++s) {
    columns.load(dy, s * step, 0.0f, gradient);
    columns.load(y, s * step, 0.0f, result);
#pragma unroll
    for (int w = 0; w < width; ++w) {
      float sum = 0.0f;
#pragma unroll
      for (int k = 0; k < backward_held; ++k) {
        sum = logarithm ? sum + gradient[k][w] : fmaf(gradient[k][w], result[k][w], sum);
      }
      total[w] += sum;
    }
  }
  reduce_columns<Sum>(columns, total, shared);
  for (std::int64_t s = steps - 1; s >= 0; --s) {
    if (steps > 1) {
      columns.load(dy, s * step, 0.0f, gradient);
      columns.load(y, s * step, 0.0f, result);
    }
#pragma unroll
    for (int k = 0; k < backward_held; ++k) {
#pragma unroll
      for (int w = 0; w < width; ++w) {
        gradient[k][w] = input_gradient<logarithm>(gradient[k][w], result[k][w], total[w]);
      }
    }
    columns.store(dx, s * step, gradient);
  }
}

template <int width, bool logarithm>
void forward_of(const Axis& axis, const float* x, float* y) {
  const Tile tile = plan(axis, width, forward_held);
  launch(op, tile_launch(tile), forward_tile<width, logarithm>, tile, x, y);
}

template <int width, bool logarithm>
void backward_of(const Axis& axis, const float* dy, const float* y, float* dx) {
  const Tile tile = plan(axis, width, backward_held);
  launch(op, tile_launch(tile), backward_tile<width, logarithm>, tile, dy, y, dx);
}

bool is_empty(const Axis& axis) {
  return axis.outer == 0 || axis.size == 0 || axis.inner == 0;
}

}  // namespace

template <bool logarithm>
void forward_columns(const Axis& axis, const float* x, float* y) {
  if (is_empty(axis)) return;
  axis.inner % 4 == 0 && aligned_for_vectors(x, y) ? forward_of<4, logarithm>(axis, x, y)
                                                   : forward_of<1, logarithm>(axis, x, y);
}

template <bool logarithm>
void backward_columns(const Axis& axis, const float* dy, const float* y, float* dx) {
  if (is_empty(axis)) return;
  axis.inner % 4 == 0 && aligned_for_vectors(dy, y, dx)
      ? backward_of<4, logarithm>(axis, dy, y, dx)
      : backward_of<1, logarithm>(axis, dy, y, dx);
}

template void forward_columns<false>(const Axis&, const float*, float*);
template void forward_columns<true>(const Axis&, const float*, float*);
template void backward_columns<false>(const Axis&, const float*, const float*, float*);
template void backward_columns<true>(const Axis&, const float*, const float*, float*);

}  // namespace lamella::softmax::device
