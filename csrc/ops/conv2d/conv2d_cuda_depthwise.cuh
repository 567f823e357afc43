// Depthwise kernels: a thread works on V neighbouring filters (4 where they and the arrays allow
// it). A filter has one channel: filter f that of number f / multiplier.
//
// Taps outside the image are left out, not multiplied. Bytes decide everywhere: x and dz are read
// once, what overlaps is found in L1 and L2.
#pragma once

#include "cuda/channels.cuh"
#include "cuda/gemm_finish.cuh"
#include "cuda/window.cuh"
#include "ops/conv2d/conv2d.h"

namespace lamella::device {

// The channels of filters f .. f + V.
template <int V, bool one_filter>
struct FilterChannels {
  std::int64_t channel[one_filter ? 1 : V];

  __device__ FilterChannels(std::int64_t f, const Divisor& multiplier) {
    if constexpr (one_filter) {
      channel[0] = f;
    } else {
      for (int i = 0; i < V; ++i) channel[i] = multiplier.divide(f + i);
    }
  }
  __device__ void load(const float* pixel, float (&to)[V]) const {
    if constexpr (one_filter) {
      load_channels(pixel + channel[0], to);
    } else {
      for (int i = 0; i < V; ++i) to[i] = __ldg(pixel + channel[i]);
    }
  }
};

struct Depthwise {
  Axis height, width;
  std::int64_t channels, filters;
  Divisor multiplier;  // filters of a channel
  bool turned;         // the kernel's last tap first, on both axes

  __device__ const float* weights(const float* kernel, std::int64_t p, std::int64_t q,
                                  std::int64_t f) const {
    const std::int64_t taps_w = width.window.kernel;
    const std::int64_t tap =
        turned ? (height.window.kernel - 1 - p) * taps_w + taps_w - 1 - q : p * taps_w + q;
    return kernel + tap * filters + f;
  }
};

// A thread's outputs: this many neighbours of a row, which share what they read.
constexpr int depthwise_outputs = 4;

// One row of taps for a thread's outputs. KW, S: taps and stride where they are known and taps are
// neighbours: then each vector of x is loaded once. whole: no tap lies outside.
template <int V, int KW, int S, bool whole, bool one_filter>
__device__ void add_tap_row(const Depthwise& p, const FilterChannels<V, one_filter>& from,
                            const float* line, std::int64_t start, const float (&weight)[KW][V],
                            float (&sums)[depthwise_outputs][V]) {
  constexpr int columns = (depthwise_outputs - 1) * S + KW;
#pragma unroll
  for (int j = 0; j < columns; ++j) {
    if (!whole && (start + j < 0 || start + j >= p.width.window.input)) continue;
    float x[V];
    from.load(line + (start + j) * p.channels, x);
#pragma unroll
    for (int t = 0; t < depthwise_outputs; ++t) {
      const int q = j - t * S;
      if (q < 0 || q >= KW) continue;
#pragma unroll
      for (int i = 0; i < V; ++i) sums[t][i] = fmaf(x[i], weight[q][i], sums[t][i]);
    }
  }
}

// KW = 0: any width, stride and dilation. The grid's rows are y's, its pixels tiles of outputs.
template <int V, int KW, int S, bool one_filter>
__global__ void __launch_bounds__(256, 2)
    depthwise_forward(const __grid_constant__ Depthwise p, const __grid_constant__ RowGrid grid,
                      const float* __restrict__ x, const float* __restrict__ kernel,
                      const __grid_constant__ conv2d::Output y) {
  constexpr int T = depthwise_outputs;
  const WindowAxis& width = p.width.window;
  grid.for_each([&](std::int64_t row) {
    const std::int64_t n = grid.rows_of_image.divide(row);
    const std::int64_t oh = row - n * p.height.window.output;
    const Interval taps_h = p.height.taps_inside(oh);
    const float* const image = x + n * p.height.window.input * width.input * p.channels;
    return [=, &p, &width, &y](std::int64_t tile, std::int64_t vector) {
      const std::int64_t f = vector * V;
      const FilterChannels<V, one_filter> from(f, p.multiplier);
      const std::int64_t start = p.width.start(tile * T);
      float sums[T][V];
#pragma unroll
      for (int t = 0; t < T; ++t) {
        for (int i = 0; i < V; ++i) sums[t][i] = 0.0f;
      }
      for (std::int64_t tap = taps_h.begin; tap < taps_h.end; ++tap) {
        const std::int64_t h = p.height.start(oh) + tap * p.height.window.dilation;
        const float* const line = image + h * width.input * p.channels;
        if constexpr (KW > 0) {
          float weight[KW][V];
#pragma unroll
          for (int q = 0; q < KW; ++q) load_channels(p.weights(kernel, tap, q, f), weight[q]);
          if (start >= 0 && start + (T - 1) * S + KW <= width.input) {
            add_tap_row<V, KW, S, true>(p, from, line, start, weight, sums);
          } else {
            add_tap_row<V, KW, S, false>(p, from, line, start, weight, sums);
          }
        } else {
          for (std::int64_t q = 0; q < width.kernel; ++q) {
            float weight[V];
            load_channels(p.weights(kernel, tap, q, f), weight);
#pragma unroll
            for (int t = 0; t < T; ++t) {
              const std::int64_t w = start + t * width.stride + q * width.dilation;
              if (w < 0 || w >= width.input) continue;
              float values[V];
              from.load(line + w * p.channels, values);
              for (int i = 0; i < V; ++i) sums[t][i] = fmaf(values[i], weight[i], sums[t][i]);
            }
          }
        }
      }
      const std::int64_t left = width.output - tile * T;
#pragma unroll 1
      for (int t = 0; t < T && t < left; ++t) {
        const std::int64_t at = (row * width.output + tile * T + t) * p.filters + f;
        gemm::add_bias(y.bias, f, V, sums[0]);
        if (y.pre_activation != nullptr) store_channels(y.pre_activation + at, sums[0]);
        activate(y.activation, sums[0]);
        store_channels(y.data + at, sums[0]);
#pragma unroll
        for (int u = 1; u < T; ++u) {  // registers have no index
          for (int i = 0; i < V; ++i) sums[u - 1][i] = sums[u][i];
        }
      }
    };
  });
}

// Any stride and multiplier: a thread gathers for one position's V channels. one_filter: V filters
// are V channels; else V is 1.
template <int V, bool one_filter>
__global__ void __launch_bounds__(256, 2)
    depthwise_gather(const __grid_constant__ Depthwise p, const __grid_constant__ RowGrid grid,
                     const float* __restrict__ dz, const float* __restrict__ kernel,
                     const __grid_constant__ conv2d::Output dx) {
  static_assert(one_filter || V == 1);
  grid.for_each([&](std::int64_t row) {
    const std::int64_t n = grid.rows_of_image.divide(row);
    const Cover rows = p.height.cover(row - n * p.height.window.input);
    return [=, &p, &dx](std::int64_t w, std::int64_t vector) {
      const Cover columns = p.width.cover(w);
      const std::int64_t filters = one_filter ? 1 : p.multiplier.value();
      const std::int64_t f = vector * V * filters;
      float sum[V];
      for (int i = 0; i < V; ++i) sum[i] = 0.0f;
      for (std::int64_t a = 0; a < rows.count; ++a) {
        const std::int64_t oh = rows.output + a * p.height.output_step;
        const std::int64_t line = (n * p.height.window.output + oh) * p.width.window.output;
#pragma unroll 2
        for (std::int64_t b = 0; b < columns.count; ++b) {
          const std::int64_t ow = columns.output + b * p.width.output_step;
          const float* const weights = p.weights(kernel, rows.tap - a * p.height.tap_step,
                                                 columns.tap - b * p.width.tap_step, f);
          for (std::int64_t k = 0; k < filters; ++k) {
            float gradient[V], weight[V];
            load_channels(dz + (line + ow) * p.filters + f + k, gradient);
            load_channels(weights + k, weight);
            for (int i = 0; i < V; ++i) sum[i] = fmaf(gradient[i], weight[i], sum[i]);
          }
        }
      }
      const std::int64_t c = vector * V;
      const std::int64_t at = (row * p.width.window.input + w) * p.channels + c;
      gemm::add_bias(dx.bias, c, V, sum);
      if (dx.pre_activation != nullptr) store_channels(dx.pre_activation + at, sum);
      activate(dx.activation, sum);
      store_channels(dx.data + at, sum);
    };
  });
}

// Blocks of the kernel gradient: `lanes` vectors of filters times slices of a chunk's pixels.
struct TapGrid {
  static constexpr int threads = 256;
  int lanes;
  std::int64_t channel_blocks;
  std::int64_t pixels, chunk, chunks;
  Divisor image_pixels, row_pixels;
};

// R x C taps from (group's row * R, column * C) on, over one chunk of pixels; the grid's second
// axis is the groups. sums: (chunks, taps, filters). x is read once for each group.
template <int V, int R, int C, bool one_filter>
__global__ void __launch_bounds__(TapGrid::threads, 2)
    depthwise_taps(const __grid_constant__ Depthwise p, const __grid_constant__ TapGrid grid,
                   const float* __restrict__ x, const float* __restrict__ dz,
                   float* __restrict__ sums) {
  __shared__ float4 shared[TapGrid::threads];
  float* const own = reinterpret_cast<float*>(shared + threadIdx.x);
  const WindowAxis& height = p.height.window;
  const WindowAxis& width = p.width.window;
  const int lane = static_cast<int>(threadIdx.x) % grid.lanes;
  const int slice = static_cast<int>(threadIdx.x) / grid.lanes;
  const int slices = TapGrid::threads / grid.lanes;
  const std::int64_t chunk = blockIdx.x / grid.channel_blocks;
  const std::int64_t f = ((blockIdx.x - chunk * grid.channel_blocks) * grid.lanes + lane) * V;
  const std::int64_t groups_w = ceil_div<std::int64_t>(width.kernel, C);
  const bool works = f < p.filters;
  const std::int64_t begin = chunk * grid.chunk + slice;
  const std::int64_t end = smaller(grid.pixels, (chunk + 1) * grid.chunk);
  const FilterChannels<V, one_filter> from(f, p.multiplier);
  for (std::int64_t group = blockIdx.y; group < ceil_div<std::int64_t>(height.kernel, R) * groups_w;
       group += gridDim.y) {
    const std::int64_t first_row = group / groups_w * R;
    const std::int64_t first_column = group % groups_w * C;
    float total[R][C][V] = {};
    for (std::int64_t pixel = works ? begin : end; pixel < end; pixel += slices) {
      const std::int64_t n = grid.image_pixels.divide(pixel);
      const std::int64_t inner = pixel - n * grid.image_pixels.value();
      const std::int64_t oh = grid.row_pixels.divide(inner);
      const std::int64_t ow = inner - oh * width.output;
      float gradient[V];
      load_channels(dz + pixel * p.filters + f, gradient);
#pragma unroll
      for (int i = 0; i < R; ++i) {
        const std::int64_t h = p.height.start(oh) + (first_row + i) * height.dilation;
        if (h < 0 || h >= height.input) continue;
        const float* const line = x + (n * height.input + h) * width.input * p.channels;
#pragma unroll
        for (int j = 0; j < C; ++j) {
          const std::int64_t w = p.width.start(ow) + (first_column + j) * width.dilation;
          if (w < 0 || w >= width.input) continue;
          float values[V];
          from.load(line + w * p.channels, values);
#pragma unroll
          for (int k = 0; k < V; ++k) {
            total[i][j][k] = fmaf(values[k], gradient[k], total[i][j][k]);
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < R; ++i) {
#pragma unroll
      for (int j = 0; j < C; ++j) {
        for (int k = 0; k < V; ++k) own[k] = total[i][j][k];
        __syncthreads();
        for (int half = slices / 2; half > 0; half /= 2) {
          if (slice < half) {
            for (int k = 0; k < V; ++k) own[k] += own[half * grid.lanes * 4 + k];
          }
          __syncthreads();
        }
        const std::int64_t row = first_row + i;
        const std::int64_t column = first_column + j;
        if (slice == 0 && works && row < height.kernel && column < width.kernel) {
          const std::int64_t tap = row * width.kernel + column;
          float sum[V];
          for (int k = 0; k < V; ++k) sum[k] = own[k];
          store_channels(sums + (chunk * height.kernel * width.kernel + tap) * p.filters + f, sum);
        }
      }
    }
  }
}

}  // namespace lamella::device
