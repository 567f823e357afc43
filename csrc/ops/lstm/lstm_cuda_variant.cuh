// What both passes of the LSTM with layer normalization and projection share on the device. Steps
// are launched one by one: the products of the GEMM core, and kernels that take a row of a step a
// block, for statistics need whole rows.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "ops/lstm/lstm_cuda.cuh"
#include "recurrent/gates.cuh"
#include "recurrent/sequence.cuh"

namespace lamella::lstm {

namespace gpu = ::lamella::device;

constexpr int row_threads = 256;

// The mean of a row and 1 / its deviation; where `gamma` is null there are none.
struct RowStatistics {
  float mean, inverse_deviation;

  __device__ float unit(float v) const { return (v - mean) * inverse_deviation; }
  __device__ static RowStatistics kept(const float* gamma, const float* statistics, int which) {
    if (gamma == nullptr) return {0.0f, 0.0f};
    return {statistics[2 * which], statistics[2 * which + 1]};
  }
};

// Which of a row's statistics.
enum Normalized : int { of_x, of_h, of_c };

// Of values(i), i < size, by all threads of a block. Two passes: the sum of the squares less the
// square of the sum would lose the digits that the mean has.
template <class Values>
__device__ RowStatistics row_statistics(std::int64_t size, float epsilon, const Values& values,
                                        float* shared) {
  const float share = 1.0f / static_cast<float>(size);
  float sum = 0.0f;
  for (std::int64_t i = threadIdx.x; i < size; i += row_threads) sum += values(i);
  const float mean = share * gpu::block_sum<row_threads>(sum, shared);
  float squares = 0.0f;
  for (std::int64_t i = threadIdx.x; i < size; i += row_threads) {
    const float d = values(i) - mean;
    squares = fmaf(d, d, squares);
  }
  const float variance = share * gpu::block_sum<row_threads>(squares, shared);
  return {mean, 1.0f / sqrtf(variance + epsilon)};
}

// A launch of a block for each of `rows`.
inline gpu::Launch each_row(std::int64_t rows) {
  return {dim3(static_cast<unsigned>(rows)), dim3(row_threads)};
}

// The rows of step j in an array of kept rows of `width`: its first, and floats between them.
struct StepRows {
  std::int64_t first, step;

  StepRows(const Steps& s, std::int64_t j, std::int64_t width)
      : first((s.all() ? s.time_of(j, 0) : s.offset(j)) * width),
        step((s.all() ? s.time() : 1) * width) {}
};

}  // namespace lamella::lstm
