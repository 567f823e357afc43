// Pooling backward, of maxima and averages: every element of dx is written once, with the sum of
// what its windows give, in row-major order of the outputs. Bytes decide: dx is written, dy and the
// winners are read once (windows that overlap find them in L1 and L2).
//
// A Source<V> says what a window's tap gives the channels from element `at` of dy on:
//   add(at, oh, ow, kh, kw, position, sum)
#pragma once

#include "ops/pool2d/pool2d_cuda.cuh"

namespace lamella::device {

template <Winner kind, int V>
struct MaximumSource {
  static constexpr int vector = V;
  const float* dy;
  const std::uint8_t* winner;

  __device__ void add(const Pool& p, std::int64_t at, std::int64_t, std::int64_t, std::int64_t kh,
                      std::int64_t kw, std::int64_t position, float (&sum)[V]) const {
    const int number =
        static_cast<int>(kind == Winner::tap ? kh * p.width.window.kernel + kw : position);
    int won[V];
    float gradient[V];
    load_winners<kind>(winner, at, won);
    load_channels(dy + at, gradient);
    for (int i = 0; i < V; ++i) sum[i] += won[i] == number ? gradient[i] : 0.0f;
  }
};

template <int V>
struct AverageSource {
  static constexpr int vector = V;
  const float* dy;

  __device__ void add(const Pool& p, std::int64_t at, std::int64_t oh, std::int64_t ow,
                      std::int64_t, std::int64_t, std::int64_t, float (&sum)[V]) const {
    const float share = p.share(oh, ow);
    float gradient[V];
    load_channels(dy + at, gradient);
    for (int i = 0; i < V; ++i) sum[i] = fmaf(gradient[i], share, sum[i]);
  }
};

// A thread gathers for one position's vector of channels.
template <class Source>
__global__ void __launch_bounds__(256)
    pool_gather(Pool p, RowGrid grid, Source source, float* __restrict__ dx) {
  constexpr int V = Source::vector;
  grid.for_each([&](std::int64_t row) {
    const std::int64_t n = grid.rows_of_image.divide(row);
    const std::int64_t h = row - n * p.height.window.input;
    const Cover rows = p.height.cover(h);
    return [=, &p, &source](std::int64_t w, std::int64_t vector) {
      const Cover columns = p.width.cover(w);
      float sum[V];
      for (int i = 0; i < V; ++i) sum[i] = 0.0f;
      for (std::int64_t i = 0; i < rows.count; ++i) {
        const std::int64_t oh = rows.output + i * p.height.output_step;
        const std::int64_t line = (n * p.height.window.output + oh) * p.width.window.output;
#pragma unroll 2
        for (std::int64_t j = 0; j < columns.count; ++j) {
          const std::int64_t ow = columns.output + j * p.width.output_step;
          source.add(p, (line + ow) * p.channels + vector * V, oh, ow,
                     rows.tap - i * p.height.tap_step, columns.tap - j * p.width.tap_step,
                     h * p.width.window.input + w, sum);
        }
      }
      store_channels(dx + (row * p.width.window.input + w) * p.channels + vector * V, sum);
    };
  });
}

// Windows that do not overlap: a thread for the stride x stride positions from each window's start
// on (its cell), so that dy and the winners are read once even by threads. Some cells lie after
// the last window.
template <class Source>
__global__ void __launch_bounds__(256)
    pool_cells(Pool p, RowGrid grid, Source source, float* __restrict__ dx) {
  constexpr int V = Source::vector;
  grid.for_each([&](std::int64_t row) {
    const std::int64_t n = grid.rows_of_image.divide(row);
    const std::int64_t oh = row - n * grid.rows_of_image.value();
    return [=, &p, &source](std::int64_t ow, std::int64_t vector) {
      const bool window = oh < p.height.window.output && ow < p.width.window.output;
      const std::int64_t pixel = (n * p.height.window.output + oh) * p.width.window.output + ow;
      const int down = static_cast<int>(p.height.window.stride);
      const int right = static_cast<int>(p.width.window.stride);
      for (int i = 0; i < down; ++i) {
        const std::int64_t h = p.height.start(oh) + i;
        if (h < 0 || h >= p.height.window.input) continue;
        for (int j = 0; j < right; ++j) {
          const std::int64_t w = p.width.start(ow) + j;
          if (w < 0 || w >= p.width.window.input) continue;
          float sum[V];
          for (int k = 0; k < V; ++k) sum[k] = 0.0f;
          if (window && i < p.height.window.kernel && j < p.width.window.kernel) {
            source.add(p, pixel * p.channels + vector * V, oh, ow, i, j,
                       h * p.width.window.input + w, sum);
          }
          const std::int64_t at = (n * p.height.window.input + h) * p.width.window.input + w;
          store_channels(dx + at * p.channels + vector * V, sum);
        }
      }
    };
  });
}

inline bool has_cells(const WindowAxis& axis) {
  return axis.dilation == 1 && axis.kernel <= axis.stride && axis.stride <= 4;
}

template <class Source>
void pool_backward_cells(const char* op, const PoolGeometry& g, const Pool& pool,
                         const Source& source, float* dx) {
  const auto cells = [](const WindowAxis& a) { return ceil_div(a.pad_before + a.input, a.stride); };
  const RowGrid grid(g.batch, cells(g.height), cells(g.width), g.channels / Source::vector);
  launch(op, grid.launch(), pool_cells<Source>, pool, grid, source, dx);
}

template <class Source>
void pool_backward(const char* op, const PoolGeometry& g, bool count_include_pad,
                   const Source& source, float* dx) {
  constexpr int V = Source::vector;
  const Pool pool(g, count_include_pad);
  if (g.batch * g.channels == 0) return;
  if constexpr (V == 4) {
    if (has_cells(g.height) && has_cells(g.width))
      return pool_backward_cells(op, g, pool, source, dx);
  }
  const RowGrid grid(g.batch, g.height.input, g.width.input, g.channels / V);
  launch(op, grid.launch(), pool_gather<Source>, pool, grid, source, dx);
}

}  // namespace lamella::device
