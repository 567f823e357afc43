// The second stage of sums over rows: the blocks' partial sums, added in order and in double.
#pragma once

#include <cstdint>

#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"

namespace lamella::device {

// out[c] = the sum over i of partial[i, c].
struct ColumnTotal {
  const float* partial;  // (count, size)
  float* out;            // (size), or null: not wanted
};

struct ColumnTotals {
  std::int64_t count;
  std::int64_t size;
  ColumnTotal total[2];
};

constexpr int total_columns = 32;
constexpr int total_shares = 16;

// One column a lane, `total_shares` warps that share the partial sums. Memory-bound, and small
// beside what was summed.
template <int = 0>
__global__ void __launch_bounds__(total_columns* total_shares)
    add_column_totals(const ColumnTotals p) {
  __shared__ double sums[total_shares * total_columns];
  const ColumnTotal total = blockIdx.y == 0 ? p.total[0] : p.total[1];
  if (total.out == nullptr) return;
  const int lane = static_cast<int>(threadIdx.x) % total_columns;
  const int share = static_cast<int>(threadIdx.x) / total_columns;
  const std::int64_t c = std::int64_t{blockIdx.x} * total_columns + lane;
  double sum = 0.0;
  if (c < p.size) {
#pragma unroll 4
    for (std::int64_t i = share; i < p.count; i += total_shares) {
      sum += static_cast<double>(total.partial[i * p.size + c]);
    }
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (share > 0 || c >= p.size) return;
  for (int k = 1; k < total_shares; ++k) sum += sums[k * total_columns + lane];
  total.out[c] = static_cast<float>(sum);
}

inline void launch_column_totals(const char* op, const ColumnTotals& p) {
  const std::int64_t blocks = ceil_div<std::int64_t>(p.size, total_columns);
  launch(op, {dim3(static_cast<unsigned>(blocks), 2), dim3(total_columns * total_shares)},
         add_column_totals<0>, p);
}

}  // namespace lamella::device
