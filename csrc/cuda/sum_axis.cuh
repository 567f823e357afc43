// Sums over one axis in a fixed order: (outer, summed, inner) -> (outer, inner). Bias gradients are
// sum_axis(op, 1, rows, columns, ...).
//
// Bound by memory: the terms are read once, in order of their addresses. Long sums are cut into
// chunks whose sums are summed by the same kernel again.
#pragma once

#include "core/memory_pool.h"
#include "cuda/pointwise.cuh"

namespace lamella::device {

// What is summed: terms.get(i, values) is `width` neighbouring terms from i on.
struct PlainTerms {
  const float* x;

  template <int width>
  __device__ void get(std::int64_t i, float (&values)[width]) const {
    load(x + i, values);
  }
};

struct ProductTerms {
  const float* x;
  const float* other;

  template <int width>
  __device__ void get(std::int64_t i, float (&values)[width]) const {
    float factors[width];
    load(x + i, values);
    load(other + i, factors);
#pragma unroll
    for (int j = 0; j < width; ++j) values[j] *= factors[j];
  }
};

// How a sum is cut: threads of a block lie `across` (vectors of a row) times `down` (rows).
struct SumPlan {
  std::int64_t outer, summed, inner;
  int width;  // floats of a vector; with inner = 1 along the sum
  int across, down;
  std::int64_t columns;  // blocks beside each other
  std::int64_t chunk;    // terms of a block
  std::int64_t chunks;   // blocks one after the other
};

constexpr int sum_threads = 256;

inline SumPlan sum_plan(std::int64_t outer, std::int64_t summed, std::int64_t inner, bool vectors,
                        int multiprocessors) {
  SumPlan p{outer, summed, inner, 1, 1, 1, 1, 1, 1};
  if (inner == 1) {
    // Threads share a row: `down` of them, `across` rows.
    if (vectors && summed % 4 == 0) p.width = 4;
    const std::int64_t each = ceil_div<std::int64_t>(summed, p.width);
    while (p.down < sum_threads && p.down * 4 < each) p.down *= 2;
    p.across = sum_threads / p.down;
    p.columns = ceil_div<std::int64_t>(outer, p.across);
  } else {
    if (vectors && inner % 4 == 0) p.width = 4;
    const std::int64_t each = inner / p.width;
    p.columns = ceil_div<std::int64_t>(each, sum_threads);
    p.across = static_cast<int>(ceil_div(each, p.columns));
    p.down = sum_threads / p.across;
  }
  // Enough blocks to fill the device, each with at least 16 terms a thread.
  const std::int64_t unit = inner == 1 ? std::int64_t{p.down} * p.width : p.down;
  const std::int64_t rows = inner == 1 ? 1 : outer;
  const std::int64_t wanted = ceil_div<std::int64_t>(4 * multiprocessors, p.columns * rows);
  const std::int64_t most = larger<std::int64_t>(1, summed / (16 * unit));
  p.chunk = ceil_div<std::int64_t>(ceil_div(summed, smaller(wanted, most)), unit) * unit;
  p.chunks = ceil_div(summed, p.chunk);
  return p;
}

// The sum over threads that lie `down` apart, in a fixed tree; valid for the first of each.
template <int width>
__device__ inline void sum_down(float (&values)[width], float* shared, int position, int across,
                                int down) {
  float* const own = shared + threadIdx.x * width;
  store(own, values);
  for (int left = down; left > 1;) {
    const int half = (left + 1) / 2;
    __syncthreads();
    if (position < left - half) {
      float other[width];
      load(own, values);
      load(own + half * across * width, other);
#pragma unroll
      for (int j = 0; j < width; ++j) values[j] += other[j];
      store(own, values);
    }
    left = half;
  }
}

// Adds the terms first, first + step, ... below `last`, four loads at a time.
template <int width, class Terms>
__device__ inline void add_terms(const Terms& terms, std::int64_t first, std::int64_t last,
                                 std::int64_t step, float (&sums)[width]) {
  constexpr int unroll = 4;
  std::int64_t i = first;
  for (; i + (unroll - 1) * step < last; i += unroll * step) {
    float values[unroll][width];
#pragma unroll
    for (int u = 0; u < unroll; ++u) terms.get(i + u * step, values[u]);
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
#pragma unroll
      for (int j = 0; j < width; ++j) sums[j] += values[u][j];
    }
  }
  for (; i < last; i += step) {
    float values[width];
    terms.get(i, values);
#pragma unroll
    for (int j = 0; j < width; ++j) sums[j] += values[j];
  }
}

// inner > 1. Grid: (columns * chunks * outer). sums (outer, chunks, inner).
template <int width, class Terms>
__global__ void __launch_bounds__(sum_threads)
    column_sums_kernel(const SumPlan p, const Terms terms, float* const sums) {
  alignas(16) __shared__ float shared[sum_threads * width];
  const std::int64_t part = blockIdx.x / p.columns;  // of outer x chunks
  const int position = static_cast<int>(threadIdx.x) / p.across;
  const std::int64_t vector = static_cast<std::int64_t>(blockIdx.x % p.columns) * p.across +
                              static_cast<int>(threadIdx.x) % p.across;
  const std::int64_t column = vector * width;
  const bool active = position < p.down && column < p.inner;
  const std::int64_t begin = part % p.chunks * p.chunk;
  const std::int64_t end = smaller(begin + p.chunk, p.summed);
  const std::int64_t base = part / p.chunks * p.summed * p.inner + column;
  float values[width] = {};
  if (active) {
    add_terms(terms, base + (begin + position) * p.inner, base + end * p.inner, p.down * p.inner,
              values);
  }
  sum_down(values, shared, position, p.across, p.down);
  if (active && position == 0) store(sums + part * p.inner + column, values);
}

// inner = 1. Grid: (columns * chunks). sums (outer, chunks).
template <int width, class Terms>
__global__ void __launch_bounds__(sum_threads)
    row_sums_kernel(const SumPlan p, const Terms terms, float* const sums) {
  __shared__ float shared[sum_threads];
  const int position = static_cast<int>(threadIdx.x) % p.down;
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x % p.columns) * p.across + threadIdx.x / p.down;
  const std::int64_t chunk = blockIdx.x / p.columns;
  const std::int64_t begin = chunk * p.chunk;
  const std::int64_t end = smaller(begin + p.chunk, p.summed);
  float values[width] = {};
  if (row < p.outer) {
    const std::int64_t base = row * p.summed;
    add_terms(terms, base + begin + position * width, base + end, std::int64_t{p.down} * width,
              values);
  }
  float sum[1] = {values[0]};
#pragma unroll
  for (int j = 1; j < width; ++j) sum[0] += values[j];
  sum_down(sum, shared, position, 1, p.down);
  if (position == 0 && row < p.outer) sums[row * p.chunks + chunk] = sum[0];
}

// inner > 1, and a thread sums alone: for many short sums.
template <int width, class Terms>
__global__ void __launch_bounds__(sum_threads)
    separate_sums_kernel(const SumPlan p, const Terms terms, float* const sums) {
  const std::int64_t across = p.inner / width;
  for (std::int64_t i = grid_thread(); i < p.outer * across; i += grid_threads()) {
    const std::int64_t base = i / across * p.summed * p.inner + i % across * width;
    float values[width] = {};
    add_terms(terms, base, base + p.summed * p.inner, p.inner, values);
    store(sums + i * width, values);
  }
}

template <class Terms>
void sum_axis(const char* op, std::int64_t outer, std::int64_t summed, std::int64_t inner,
              bool vectors, const Terms& terms, float* sums) {
  if (outer == 0 || inner == 0) return;
  if (summed == 0) {
    return fill_bytes(sums, 0, sizeof(float) * static_cast<std::size_t>(outer * inner));
  }
  const SumPlan p = sum_plan(outer, summed, inner, vectors && aligned_for_vectors(sums),
                             properties().multiprocessors);
  if (inner > 1) {
    const std::int64_t threads = outer * (inner / p.width);
    if (summed <= 16 || threads >= std::int64_t{1024} * properties().multiprocessors) {
      const Launch shape = elements(threads, 1);
      if (p.width == 4) return launch(op, shape, separate_sums_kernel<4, Terms>, p, terms, sums);
      return launch(op, shape, separate_sums_kernel<1, Terms>, p, terms, sums);
    }
  }
  const Scratch<float> partial(op, p.chunks > 1 ? outer * p.chunks * inner : 0);
  float* const to = p.chunks > 1 ? partial.get() : sums;
  const std::int64_t blocks = p.columns * p.chunks * (inner == 1 ? 1 : outer);
  const Launch shape{dim3(static_cast<unsigned>(blocks)), dim3(sum_threads)};
  if (inner == 1 && p.width == 4) {
    launch(op, shape, row_sums_kernel<4, Terms>, p, terms, to);
  } else if (inner == 1) {
    launch(op, shape, row_sums_kernel<1, Terms>, p, terms, to);
  } else if (p.width == 4) {
    launch(op, shape, column_sums_kernel<4, Terms>, p, terms, to);
  } else {
    launch(op, shape, column_sums_kernel<1, Terms>, p, terms, to);
  }
  if (p.chunks > 1) sum_axis(op, outer, p.chunks, inner, true, PlainTerms{to}, sums);
}

inline void sum_axis(const char* op, std::int64_t outer, std::int64_t summed, std::int64_t inner,
                     const float* x, float* sums) {
  sum_axis(op, outer, summed, inner, aligned_for_vectors(x), PlainTerms{x}, sums);
}

// out[c] = sum over r of dz[r][c].
inline void bias_gradient(const char* op, const float* dz, std::int64_t rows, std::int64_t columns,
                          float* out) {
  sum_axis(op, 1, rows, columns, dz, out);
}

}  // namespace lamella::device
