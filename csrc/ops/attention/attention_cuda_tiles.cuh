// Tiles in shared memory, and the three products of attention on them. Each thread of a product
// adds up a small block in registers: 16-byte reads of either operand feed 4 to 16 FMAs each, so
// that FMAs decide and not shared memory.
//
// Tiles are rows of 32 * columns floats, `tile_stride` apart: an odd number of 16-byte units, so
// that 8 rows side by side lie in 8 different groups of banks.
#pragma once

#include "cuda/copy.cuh"
#include "ops/attention/attention_cuda_scores.cuh"

namespace lamella::attention::tiles {

// `columns` below is the number of float4 that a lane of keys has of a row.
template <int columns>
constexpr int tile_width = 32 * columns;
template <int columns>
constexpr int tile_stride = tile_width<columns> + 4;

constexpr int whole_vectors(int width) {
  return (width + 3) / 4 * 4;
}

// Copies rows [0, valid) of `width` floats, row r from row_at(r), asynchronously; what is missing
// up to `rows` rows and to whole vectors is zeros. `vectors`: all addresses and widths are
// multiples of 16 bytes.
template <int threads, class Row>
__device__ inline void load_rows(float* to, int stride, int rows, int valid, int width,
                                 bool vectors, const Row& row_at) {
  const int thread = static_cast<int>(threadIdx.x);
  if (vectors) {
#pragma unroll 1
    for (int r = thread / 8; r < rows; r += threads / 8) {
      const bool real = r < valid;
      const float* const from = row_at(real ? r : 0);
      for (int c = thread % 8 * 4; c < width; c += 32) {
        lamella::device::copy_async<16>(to + r * stride + c, from + c, real);
      }
    }
    return;
  }
  const int padded = whole_vectors(width);
#pragma unroll 1
  for (int r = thread / 32; r < rows; r += threads / 32) {
    const bool real = r < valid;
    const float* const from = row_at(real ? r : 0);
    for (int c = thread % 32; c < padded; c += 32) {
      const bool inside = real && c < width;
      lamella::device::copy_async<4>(to + r * stride + c, from + (inside ? c : 0), inside);
    }
  }
}

// Whether what this thread copied with load_rows is finite, after its wait.
template <int threads>
__device__ inline bool copied_are_finite(const float* tile, int stride, int rows, int width,
                                         bool vectors) {
  const int thread = static_cast<int>(threadIdx.x);
  float test = 0.0f;
  if (vectors) {
#pragma unroll 1
    for (int r = thread / 8; r < rows; r += threads / 8) {
      for (int c = thread % 8 * 4; c < width; c += 32) {
        const float4 v = *reinterpret_cast<const float4*>(tile + r * stride + c);
        test = fmaf(v.x, 0.0f, fmaf(v.y, 0.0f, fmaf(v.z, 0.0f, fmaf(v.w, 0.0f, test))));
      }
    }
    return test == 0.0f;
  }
#pragma unroll 1
  for (int r = thread / 32; r < rows; r += threads / 32) {
    for (int c = thread % 32; c < width; c += 32) test = fmaf(tile[r * stride + c], 0.0f, test);
  }
  return test == 0.0f;
}

__device__ inline float4 load4(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}

// s[r][j] += a row of the thread times a key of it, over `depth` floats, a multiple of 4. `a` is
// the thread's first row, `b` its first key.
template <int stride, int thread_rows>
__device__ inline void add_dots(const float* a, const float* b, int depth,
                                float (&s)[thread_rows][thread_keys]) {
#pragma unroll 1
  for (int e = 0; e < depth; e += 4) {
    float4 x[thread_rows];
#pragma unroll
    for (int r = 0; r < thread_rows; ++r) x[r] = load4(a + r * row_lanes * stride + e);
#pragma unroll
    for (int j = 0; j < thread_keys; ++j) {
      const float4 y = load4(b + j * key_lanes * stride + e);
#pragma unroll
      for (int r = 0; r < thread_rows; ++r) {
        s[r][j] = fmaf(x[r].x, y.x, s[r][j]);
        s[r][j] = fmaf(x[r].y, y.y, s[r][j]);
        s[r][j] = fmaf(x[r].z, y.z, s[r][j]);
        s[r][j] = fmaf(x[r].w, y.w, s[r][j]);
      }
    }
  }
}

// Thread blocks of a product whose columns are those of a tile's rows.
template <int thread_rows, int columns>
using Sums = float[thread_rows][4 * columns];

template <int thread_rows, int columns>
__device__ inline void add_scaled_row(const float (&w)[thread_rows], const float* row,
                                      Sums<thread_rows, columns>& o) {
#pragma unroll
  for (int c = 0; c < columns; ++c) {
    const float4 v = load4(row + c * 32 + key_lane() * 4);
#pragma unroll
    for (int r = 0; r < thread_rows; ++r) {
      o[r][4 * c] = fmaf(w[r], v.x, o[r][4 * c]);
      o[r][4 * c + 1] = fmaf(w[r], v.y, o[r][4 * c + 1]);
      o[r][4 * c + 2] = fmaf(w[r], v.z, o[r][4 * c + 2]);
      o[r][4 * c + 3] = fmaf(w[r], v.w, o[r][4 * c + 3]);
    }
  }
}

// The same where the row may hold anything: a weight of 0 meets nothing of it.
template <int thread_rows, int columns>
__device__ inline void add_scaled_row_unless_zero(const float (&w)[thread_rows], const float* row,
                                                  Sums<thread_rows, columns>& o) {
#pragma unroll
  for (int r = 0; r < thread_rows; ++r) {
    if (w[r] == 0.0f) continue;
#pragma unroll
    for (int c = 0; c < columns; ++c) {
      const float4 v = load4(row + c * 32 + key_lane() * 4);
      o[r][4 * c] = fmaf(w[r], v.x, o[r][4 * c]);
      o[r][4 * c + 1] = fmaf(w[r], v.y, o[r][4 * c + 1]);
      o[r][4 * c + 2] = fmaf(w[r], v.z, o[r][4 * c + 2]);
      o[r][4 * c + 3] = fmaf(w[r], v.w, o[r][4 * c + 3]);
    }
  }
}

// o[r] += sum over the tile's keys of pairs[row][key] b[key]; `pairs` is the thread's first row.
template <int thread_rows, int columns>
__device__ inline void add_over_keys(const float* pairs, const float* b, bool finite,
                                     Sums<thread_rows, columns>& o) {
  constexpr int stride = tile_stride<columns>;
  if (!finite) {
#pragma unroll 1
    for (int k = 0; k < tile_keys; ++k) {
      float w[thread_rows];
#pragma unroll
      for (int r = 0; r < thread_rows; ++r) w[r] = pairs[r * row_lanes * pair_stride + k];
      add_scaled_row_unless_zero<thread_rows, columns>(w, b + k * stride, o);
    }
    return;
  }
#pragma unroll 1
  for (int k = 0; k < tile_keys; k += 4) {
    float4 x[thread_rows];
#pragma unroll
    for (int r = 0; r < thread_rows; ++r) x[r] = load4(pairs + r * row_lanes * pair_stride + k);
    float w[thread_rows];
#pragma unroll
    for (int r = 0; r < thread_rows; ++r) w[r] = x[r].x;
    add_scaled_row<thread_rows, columns>(w, b + k * stride, o);
#pragma unroll
    for (int r = 0; r < thread_rows; ++r) w[r] = x[r].y;
    add_scaled_row<thread_rows, columns>(w, b + (k + 1) * stride, o);
#pragma unroll
    for (int r = 0; r < thread_rows; ++r) w[r] = x[r].z;
    add_scaled_row<thread_rows, columns>(w, b + (k + 2) * stride, o);
#pragma unroll
    for (int r = 0; r < thread_rows; ++r) w[r] = x[r].w;
    add_scaled_row<thread_rows, columns>(w, b + (k + 3) * stride, o);
  }
}

// o[i] += sum over `rows` rows of pairs[row][key i of the thread's 4] b[row]; `pairs` is the
// thread's first key.
template <int columns>
__device__ inline void add_over_rows(const float* pairs, const float* b, int rows, bool finite,
                                     Sums<4, columns>& o) {
  constexpr int stride = tile_stride<columns>;
  if (!finite) {
#pragma unroll 1
    for (int r = 0; r < rows; ++r) {
      const float4 x = load4(pairs + r * pair_stride);
      const float w[4] = {x.x, x.y, x.z, x.w};
      add_scaled_row_unless_zero<4, columns>(w, b + r * stride, o);
    }
    return;
  }
#pragma unroll 4
  for (int r = 0; r < rows; ++r) {
    const float4 x = load4(pairs + r * pair_stride);
    const float w[4] = {x.x, x.y, x.z, x.w};
    add_scaled_row<4, columns>(w, b + r * stride, o);
  }
}

// Stores floats [c * 32 + 4 * key_lane(), + 4) of a row of `width`, for each c.
template <int columns>
__device__ inline void store_row(const float (&o)[4 * columns], float factor, int width,
                                 bool vectors, float* to) {
#pragma unroll
  for (int c = 0; c < columns; ++c) {
    const int at = c * 32 + key_lane() * 4;
    if (vectors) {
      if (at < width) {
        *reinterpret_cast<float4*>(to + at) = float4{o[4 * c] * factor, o[4 * c + 1] * factor,
                                                     o[4 * c + 2] * factor, o[4 * c + 3] * factor};
      }
      continue;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (at + i < width) to[at + i] = o[4 * c + i] * factor;
    }
  }
}

inline bool fits_vectors(const void* pointer, int64_t size) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0 && size % 4 == 0;
}

}  // namespace lamella::attention::tiles
