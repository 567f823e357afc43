// Operands of a product that are matrices in memory.
#pragma once

#include <type_traits>

#include "cuda/copy.cuh"
#include "cuda/kernel.cuh"
#include "cuda/pointwise.cuh"

namespace lamella::device::gemm {

// Where matrix q begins: a table on the device, or evenly spaced ones where there is none.
struct Offsets {
  const std::int64_t* table = nullptr;
  std::int64_t stride = 0;

  __device__ std::int64_t at(std::int64_t q) const {
    return table == nullptr ? q * stride : __ldg(table + q);
  }
};

// Loads a tile that holds columns (ColumnLayout) from a matrix of floats.
template <class Operand, class Layout, int threads, bool along_rows>
class FloatLoader {
 public:
  __device__ FloatLoader(const Operand& operand, std::int64_t first)
      : operand_(operand), valid_(0) {
    if constexpr (along_rows) {
      const int width = operand.vectors ? 4 : 1;
      const int row = static_cast<int>(threadIdx.x) % (rows / width) * width;
      const int k = static_cast<int>(threadIdx.x) / (rows / width);
      base_ = operand.data + first + row + k * operand.stride;
      valid_ = first + row < operand.rows;
    } else {
      const int row = static_cast<int>(threadIdx.x) / 8;
      base_ = operand.data + (first + row) * operand.stride + threadIdx.x % 8;
#pragma unroll
      for (int i = 0; i < rows / row_step; ++i) {
        if (first + row + i * row_step < operand.rows) valid_ |= 1u << i;
      }
    }
  }

  __device__ void load(float* tile, std::int64_t product, std::int64_t k) {
    const float* const from = base_ + operand_.offsets.at(product);
    const int k_left = static_cast<int>(smaller<std::int64_t>(operand_.k - k, depth));
    if constexpr (!along_rows) {
      copy_along_k(tile, from + k, k_left);
    } else if (operand_.vectors) {
      copy_along_rows<4>(tile, from + k * operand_.stride, k_left);
    } else {
      copy_along_rows<1>(tile, from + k * operand_.stride, k_left);
    }
  }

 private:
  static constexpr int rows = Layout::rows;
  static constexpr int depth = Layout::depth;
  static constexpr int row_step = threads / 8;

  // Turned on the way: lanes 8 along k and 4 along rows are 4 whole sectors of memory, and 32
  // different banks. From one copy to the next the address moves on: kept for all of them,
  // addresses would take the registers of the sums.
  __device__ void copy_along_k(float* tile, const float* from, int k_left) const {
    static_assert(depth == 8 && rows % row_step == 0);
    const int k = static_cast<int>(threadIdx.x) % 8;
    const int row = static_cast<int>(threadIdx.x) / 8;
    const unsigned valid = k < k_left ? valid_ : 0;
#pragma unroll
    for (int i = 0; i < rows / row_step; ++i) {
      copy_async<4>(tile + Layout::at(row + i * row_step, k), from, (valid >> i & 1) != 0);
      from += row_step * operand_.stride;
    }
  }

  template <int width>
  __device__ void copy_along_rows(float* tile, const float* from, int k_left) const {
    constexpr int across = rows / width;  // copies for one k
    constexpr int k_step = threads / across;
    static_assert(threads % across == 0);
    const int row = static_cast<int>(threadIdx.x) % across * width;
    const int k = static_cast<int>(threadIdx.x) / across;
    if (depth < k_step && k >= depth) return;
#pragma unroll(width == 1 ? 2 : 8)
    for (int i = 0; i < depth; i += k_step) {
      copy_async<4 * width>(tile + Layout::at(row, k + i), from, valid_ != 0 && k + i < k_left);
      from += k_step * operand_.stride;
    }
  }

  const Operand& operand_;  // a kernel parameter: constant memory
  const float* base_;       // this thread's first element
  unsigned valid_;          // a bit for each of its rows
};

// Loads a tile of chunks of 16-bit elements (ChunkLayout), which lies the way its matrix does.
template <class Operand, class Layout, int threads>
class ChunkLoader {
 public:
  using T = typename Layout::Element;

  __device__ ChunkLoader(const Operand& operand, std::int64_t first)
      : operand_(operand),
        base_(operand.data + first * (Layout::along_rows ? 1 : operand.stride) +
              line() * operand.stride + chunk() * Layout::chunk),
        rows_left_(static_cast<int>(smaller<std::int64_t>(operand.rows - first, Layout::rows))) {}

  __device__ void load(T* tile, std::int64_t product, std::int64_t k) {
    const T* const from =
        base_ + operand_.offsets.at(product) + k * (Layout::along_rows ? operand_.stride : 1);
    const int k_left = static_cast<int>(smaller<std::int64_t>(operand_.k - k, Layout::depth));
    const int lines = Layout::along_rows ? k_left : rows_left_;
    const int in_line = (Layout::along_rows ? rows_left_ : k_left) - chunk() * Layout::chunk;
    if (operand_.vectors) {
      each_chunk(tile, from, lines, [&](T* to, const T* chunk_from, bool valid) {
        copy_async<16>(to, chunk_from, valid && in_line > 0);
      });
    } else {
      // No asynchronous copy is as small as an element.
      each_chunk(tile, from, lines, [&](T* to, const T* chunk_from, bool valid) {
        for (int e = 0; e < Layout::chunk; ++e) {
          to[e] = valid && e < in_line ? chunk_from[e] : static_cast<T>(0.0f);
        }
      });
    }
  }

 private:
  static constexpr int line_step = threads / Layout::across;

  template <class Function>
  __device__ void each_chunk(T* tile, const T* from, int lines, const Function& f) const {
    static_assert(Layout::lines % line_step == 0);
#pragma unroll
    for (int i = 0; i < Layout::lines; i += line_step) {
      f(tile + Layout::chunk_at(line() + i, chunk()), from, line() + i < lines);
      from += line_step * operand_.stride;
    }
  }

  __device__ static int chunk() { return static_cast<int>(threadIdx.x) % Layout::across; }
  __device__ static int line() { return static_cast<int>(threadIdx.x) / Layout::across; }

  const Operand& operand_;
  const T* base_;  // this thread's first chunk
  int rows_left_;
};

// Element (row, k) of matrix q is data[offsets.at(q) + row * stride + k], or with along_rows
// data[offsets.at(q) + row + k * stride].
template <class T, bool along_rows>
struct Strided {
  const T* data;
  Offsets offsets;
  std::int64_t rows, k, stride;
  bool vectors;  // 16-byte copies fit: pointer, offsets, stride and the contiguous size allow it

  template <class Layout, int threads>
  using Loader =
      std::conditional_t<sizeof(T) == 4, FloatLoader<Strided, Layout, threads, along_rows>,
                         ChunkLoader<Strided, Layout, threads>>;
};

// A matrix as the host describes it: element (row, k), one of the strides is 1.
struct Matrix {
  const float* data;
  Offsets offsets;
  bool even;  // all offsets are multiples of 4
  std::int64_t row_stride, k_stride;
};

template <bool along_rows>
Strided<float, along_rows> operand(const Matrix& x, std::int64_t rows, std::int64_t k) {
  const std::int64_t stride = along_rows ? x.k_stride : x.row_stride;
  const bool vectors = aligned_for_vectors(x.data) && x.even && stride % 4 == 0 && rows % 4 == 0;
  return {x.data, x.offsets, rows, k, stride, vectors};
}

}  // namespace lamella::device::gemm
