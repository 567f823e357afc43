// Operands of a product that are matrices in memory.
#pragma once

#include "cuda/copy.cuh"
#include "cuda/kernel.cuh"

namespace lamella::device::gemm {

// Where matrix q begins: a table on the device, or evenly spaced ones where there is none.
struct Offsets {
  const std::int64_t* table = nullptr;
  std::int64_t stride = 0;

  __device__ std::int64_t at(std::int64_t q) const {
    return table == nullptr ? q * stride : __ldg(table + q);
  }
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
  class Loader {
   public:
    __device__ Loader(const Strided& operand, std::int64_t row)
        : operand_(operand), row_(row), rows_left_(operand.rows - row) {
      rebase(0);
    }

    __device__ void load(typename Layout::Element* tile, std::int64_t product, std::int64_t k) {
      if (product != product_) rebase(product);
      const std::int64_t k_left = operand_.k - k;
      if constexpr (!along_rows) {
        copy_along_k(tile, base_ + k, k_left);
      } else if (operand_.vectors) {
        copy_along_rows<4>(tile, base_ + k * operand_.stride, k_left);
      } else {
        copy_along_rows<1>(tile, base_ + k * operand_.stride, k_left);
      }
    }

   private:
    static constexpr int rows = Layout::rows;
    static constexpr int depth = Layout::depth;

    __device__ void rebase(std::int64_t product) {
      product_ = product;
      base_ = operand_.data + operand_.offsets.at(product) +
              row_ * (along_rows ? 1 : operand_.stride);
    }

    // Turned on the way: lanes 8 along k and 4 along rows are 4 whole sectors of memory, and 32
    // different banks.
    __device__ void copy_along_k(T* tile, const T* from, std::int64_t k_left) const {
      constexpr int step = threads / 8;  // rows
      static_assert(depth == 8 && rows % step == 0);
      const int k = static_cast<int>(threadIdx.x) % 8;
      const int first = static_cast<int>(threadIdx.x) / 8;
      const bool valid = k < k_left;
#pragma unroll
      for (int i = 0; i < rows; i += step) {
        copy_async<4>(tile + Layout::at(first + i, k), from + (first + i) * operand_.stride + k,
                      valid && first + i < rows_left_);
      }
    }

    template <int width>
    __device__ void copy_along_rows(T* tile, const T* from, std::int64_t k_left) const {
      constexpr int across = rows / width;  // copies for one k
      constexpr int copies = across * depth;
#pragma unroll
      for (int first = 0; first < copies; first += threads) {
        const int i = first + static_cast<int>(threadIdx.x);
        if (copies % threads != 0 && i >= copies) break;
        const int row = i % across * width;
        const int k = i / across;
        copy_async<4 * width>(tile + Layout::at(row, k), from + row + k * operand_.stride,
                              k < k_left && row < rows_left_);
      }
    }

    const Strided& operand_;  // a kernel parameter: constant memory
    std::int64_t row_, rows_left_;
    std::int64_t product_;
    const T* base_;
  };
};

}  // namespace lamella::device::gemm
