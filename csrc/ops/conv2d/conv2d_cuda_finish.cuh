// What becomes of a convolution's sums: the bias, the activation, and where they go.
#pragma once

#include "cuda/gemm_finish.cuh"
#include "ops/conv2d/conv2d_cuda_direct.cuh"
#include "ops/conv2d/conv2d_cuda_operands.cuh"

namespace lamella::device {

// Element (row, column) of group r: row is a pixel of the phase, column a channel of the group.
// Direct: DirectForward or DirectInput.
template <class Direct>
struct ConvolutionFinish {
  static constexpr bool unrolled = false;

  conv2d::Output y;
  Direct direct;
  GatherAxis h, w;
  Divisor image_rows, row_rows;
  int group_columns;
  bool whole;    // rows are y's pixels in their order
  bool padded;   // some tap lies outside for some result
  bool vectors;  // 16-byte accesses fit

  ConvolutionFinish(const conv2d::Output& y_, const Direct& direct_, const GatherAxes& axes,
                    std::int64_t groups, bool padded_, bool vectors_)
      : y(y_),
        direct(direct_),
        h(axes.h),
        w(axes.w),
        image_rows(std::int64_t{axes.h.results} * axes.w.results),
        row_rows(axes.w.results),
        group_columns(static_cast<int>(direct_.channels() / groups)),
        whole(axes.h.result_step == 1 && axes.w.result_step == 1),
        padded(padded_),
        vectors(vectors_) {}

  template <int width>
  __device__ void operator()(std::int64_t group, std::int64_t row, std::int64_t column, int count,
                             float (&values)[width]) const {
    const std::int64_t channel = group * group_columns + column;
    std::int64_t pixel = row;
    if (!whole) {
      const Place at = place(row);
      pixel = (at.n * direct.rows() + at.h) * direct.columns() + at.w;
    }
    if (padded) {
      bool wild = false;
#pragma unroll
      for (int i = 0; i < width; ++i) wild = wild || isnan(values[i]);
      if (wild) sum_again(row, channel, count, values);
    }
    gemm::add_bias(y.bias, channel, count, values);
    const std::int64_t at = pixel * direct.channels() + channel;
    const bool together = vectors && count == width;
    if (y.pre_activation != nullptr) gemm::write(y.pre_activation + at, values, count, together);
    activate(y.activation, values);
    gemm::write(y.data + at, values, count, together);
  }

 private:
  struct Place {
    std::int64_t n, h, w;
  };

  __device__ Place place(std::int64_t row) const {
    const std::int64_t n = image_rows.divide(row);
    const int inner = static_cast<int>(row - n * image_rows.value());
    const int i = row_rows.divide_small(inner);
    const int j = inner - i * w.results;
    return {n, h.result + std::int64_t{i} * h.result_step, w.result + std::int64_t{j} * w.result_step};
  }

  // Registers have no index: the sum goes to its place by comparison.
  template <int width>
  __device__ void sum_again(std::int64_t row, std::int64_t channel, int count,
                            float (&values)[width]) const {
    const Place at = place(row);
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      const float sum = direct.sum(at.n, at.h, at.w, channel + i);
#pragma unroll
      for (int j = 0; j < width; ++j) values[j] = j == i ? sum : values[j];
    }
  }
};

// Every element by itself, where no product is formed: a phase that no tap meets, or sizes beyond
// what Gather counts in. Bytes decide in the first case, latencies in the second.
template <class Direct>
__global__ void __launch_bounds__(256) sum_directly(Direct direct, conv2d::Output y) {
  const std::int64_t size = direct.p.batch * direct.rows() * direct.columns() * direct.channels();
  for (std::int64_t i = grid_thread(); i < size; i += grid_threads()) {
    const std::int64_t pixel = i / direct.channels();
    const std::int64_t channel = i - pixel * direct.channels();
    const std::int64_t row = pixel / direct.columns();
    const std::int64_t n = row / direct.rows();
    float value[1] = {
        direct.sum(n, row - n * direct.rows(), pixel - row * direct.columns(), channel)};
    gemm::add_bias(y.bias, channel, 1, value);
    if (y.pre_activation != nullptr) y.pre_activation[i] = value[0];
    activate(y.activation, value);
    y.data[i] = value[0];
  }
}

}  // namespace lamella::device
