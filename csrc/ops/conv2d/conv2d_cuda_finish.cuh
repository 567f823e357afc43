// What becomes of a convolution's sums: the bias, the activation, and where they go.
#pragma once

#include "cuda/gemm_finish.cuh"
#include "ops/conv2d/conv2d_cuda_direct.cuh"
#include "ops/conv2d/conv2d_cuda_operands.cuh"

namespace lamella::device {

// Element `at` of y, summed by the calling thread alone.
template <class Direct>
__device__ void write_directly(const Direct& direct, const conv2d::Output& y, std::int64_t at) {
  const std::int64_t pixel = at / direct.channels();
  const std::int64_t channel = at - pixel * direct.channels();
  const std::int64_t row = pixel / direct.columns();
  const std::int64_t n = row / direct.rows();
  float value[1] = {
      direct.sum(n, row - n * direct.rows(), pixel - row * direct.columns(), channel)};
  gemm::add_bias(y.bias, channel, 1, value);
  if (y.pre_activation != nullptr) y.pre_activation[at] = value[0];
  activate(y.activation, value);
  y.data[at] = value[0];
}

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
  __device__ bool operator()(std::int64_t group, std::int64_t row, std::int64_t column, int count,
                             float (&values)[width]) const {
    const std::int64_t channel = group * group_columns + column;
    bool wild = false;
#pragma unroll
    for (int i = 0; i < width; ++i) wild |= isnan(values[i]);
    gemm::add_bias(y.bias, channel, count, values);
    const std::int64_t at = pixel(row) * direct.channels() + channel;
    const bool together = vectors && count == width;
    if (y.pre_activation != nullptr) gemm::write(y.pre_activation + at, values, count, together);
    activate(y.activation, values);
    gemm::write(y.data + at, values, count, together);
    return wild && padded;
  }

  // Activations of NaN are NaN.
  __device__ void revise(std::int64_t group, std::int64_t row, std::int64_t column) const {
    const std::int64_t channel = group * group_columns + column;
    const std::int64_t at = pixel(row) * direct.channels() + channel;
    if (isnan(y.data[at])) write_directly(direct, y, at);
  }

 private:
  __device__ std::int64_t pixel(std::int64_t row) const {
    if (whole) return row;
    const std::int64_t n = image_rows.divide(row);
    const int inner = static_cast<int>(row - n * image_rows.value());
    const int i = row_rows.divide_small(inner);
    const int j = inner - i * w.results;
    return (n * direct.rows() + h.result + std::int64_t{i} * h.result_step) * direct.columns() +
           w.result + std::int64_t{j} * w.result_step;
  }
};

// Every element by itself, where no product is formed: sizes beyond what Gather counts in.
// Latencies decide.
template <class Direct>
__global__ void __launch_bounds__(256)
    sum_directly(const __grid_constant__ Direct direct, const __grid_constant__ conv2d::Output y) {
  const std::int64_t size = direct.p.batch * direct.rows() * direct.columns() * direct.channels();
  for (std::int64_t i = grid_thread(); i < size; i += grid_threads()) write_directly(direct, y, i);
}

}  // namespace lamella::device
