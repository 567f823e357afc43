// Products of a matrix with a few rows: C = finish(S T) with S (rows <= 16, k) and a large T (k,
// n), or its transpose, C^T. A tile would be mostly empty.
//
// The limit is the memory rate, at which T is streamed once. S lies in shared memory, a chunk of k
// at a time. Where n gives too few blocks, k is split, and finish_kernel sums the partial results
// in order.
#pragma once

#include "cuda/gemm.cuh"

namespace lamella::device::gemm {

constexpr int most_skinny_rows = 16;

namespace detail {

constexpr int skinny_threads = 256;
constexpr int skinny_warps = skinny_threads / warp_size;
constexpr int skinny_chunk = 256;  // of k

struct SkinnyWork {
  Work work;
  Matrix small, stream;
  int rows;
  std::int64_t n, k, split_k;
  bool transposed;  // results are C^T
};

// S's chunk, for all products of a block: shared[k][row] with row_stride 1, or [row][k].
template <int rows, bool rows_together>
__device__ inline void load_chunk(const SkinnyWork& w, const float* small, std::int64_t k,
                                  std::int64_t k_end, float* shared) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * skinny_chunk; i += skinny_threads) {
    const int row = i / skinny_chunk;
    const int at = i % skinny_chunk;
    const bool valid = row < w.rows && k + at < k_end;
    const float v =
        valid ? __ldg(small + row * w.small.row_stride + (k + at) * w.small.k_stride) : 0.0f;
    shared[rows_together ? at * rows + row : row * skinny_chunk + at] = v;
  }
}

// From shared[row][column] (columns of this block from `first` on) to C or to the partial sums.
template <class Finish>
__device__ inline void finish_block(const SkinnyWork& w, const Finish& finish, const float* shared,
                                    std::int64_t first, int columns) {
  const Work& work = w.work;
  const std::int64_t result = work.first_result + blockIdx.z;
  const int here = static_cast<int>(smaller<std::int64_t>(columns, w.n - first));
  for (int i = static_cast<int>(threadIdx.x); i < w.rows * here; i += skinny_threads) {
    const int r = w.transposed ? i % w.rows : i / here;
    const int c = w.transposed ? i / w.rows : i % here;
    float value[1] = {shared[r * columns + c]};
    const std::int64_t row = w.transposed ? first + c : r;
    const std::int64_t column = w.transposed ? r : first + c;
    if (work.splits > 1) {
      const Problem& p = work.problem;
      work.partials[((blockIdx.y * p.results + result) * p.m + row) * work.partial_row + column] =
          value[0];
    } else {
      finish(result, row, column, 1, value);
    }
  }
}

// T is contiguous along its columns. A thread has `width` of them; the warps of a block take turns
// along k, and their sums are added in a fixed tree. Grid: (blocks of columns, splits, results).
template <int rows, int width, class Finish>
__global__ void __launch_bounds__(skinny_threads, 2)
    skinny_columns_kernel(const SkinnyWork w, const Finish finish) {
  constexpr int columns = warp_size * width;
  constexpr int unroll = rows * width >= 64 ? 2 : 4;  // loads in flight; registers
  float* const shared = dynamic_shared<float>();
  const int warp = warp_index();
  const int lane = lane_index();
  const std::int64_t result = w.work.first_result + blockIdx.z;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * columns;
  const bool active = first + lane * width < w.n;
  const float* const small = w.small.data + w.small.offsets.at(result);
  const float* const stream = w.stream.data + w.stream.offsets.at(result) + first + lane * width;
  const std::int64_t k_end = smaller<std::int64_t>((blockIdx.y + 1) * w.split_k, w.k);
  float sums[rows][width] = {};
  for (std::int64_t k = blockIdx.y * w.split_k; k < k_end; k += skinny_chunk) {
    __syncthreads();
    load_chunk<rows, true>(w, small, k, k_end, shared);
    __syncthreads();
    const int length = static_cast<int>(smaller<std::int64_t>(skinny_chunk, k_end - k));
#pragma unroll 1
    for (int at = warp; at < length; at += unroll * skinny_warps) {
      float values[unroll][width] = {};
#pragma unroll
      for (int u = 0; u < unroll; ++u) {
        const int next = at + u * skinny_warps;
        if (active && next < length) load(stream + (k + next) * w.stream.k_stride, values[u]);
      }
#pragma unroll
      for (int u = 0; u < unroll; ++u) {
        // Beyond the end both are 0; a chunk is a whole number of turns.
        static_assert(skinny_chunk % (unroll * skinny_warps) == 0);
        const float* const s = shared + (at + u * skinny_warps) * rows;
#pragma unroll
        for (int r = 0; r < rows; ++r) {
#pragma unroll
          for (int j = 0; j < width; ++j) sums[r][j] = fmaf(s[r], values[u][j], sums[r][j]);
        }
      }
    }
  }
#pragma unroll
  for (int half = skinny_warps / 2; half > 0; half /= 2) {
    __syncthreads();
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      float* const other = shared + ((warp % half) * rows + r) * columns + lane * width;
      if (warp >= half && warp < 2 * half) store(other, sums[r]);
    }
    __syncthreads();
    if (warp < half) {
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        float other[width];
        load(shared + (warp * rows + r) * columns + lane * width, other);
#pragma unroll
        for (int j = 0; j < width; ++j) sums[r][j] += other[j];
      }
    }
  }
  __syncthreads();
  if (warp == 0) {
#pragma unroll
    for (int r = 0; r < rows; ++r) store(shared + r * columns + lane * width, sums[r]);
  }
  __syncthreads();
  finish_block(w, finish, shared, first, columns);
}

// The sums over all lanes of `count` values each: lanes halve the values among them as long as
// there are several. Returns i: the sums of values[i ..] are in values[0 ..], `count` / 32 or 1 of
// them.
template <int count, int offset>
__device__ inline int sum_lanes(float* values) {
  if constexpr (offset == 0) {
    return 0;
  } else if constexpr (count > 1) {
    constexpr int half = count / 2;
    const bool upper = (lane_index() & offset) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float given = upper ? values[i] : values[i + half];
      const float kept = upper ? values[i + half] : values[i];
      values[i] = kept + __shfl_xor_sync(all_lanes, given, offset);
    }
    return (upper ? half : 0) + sum_lanes<half, offset / 2>(values);
  } else {
    values[0] += __shfl_xor_sync(all_lanes, values[0], offset);
    return sum_lanes<1, offset / 2>(values);
  }
}

// T is contiguous along k. A warp has 4 of its columns, its lanes lie along k.
template <int rows, int width, class Finish>
__global__ void __launch_bounds__(skinny_threads, 2)
    skinny_dots_kernel(const SkinnyWork w, const Finish finish) {
  constexpr int each = 4;
  constexpr int columns = skinny_warps * each;
  constexpr int step = warp_size * width;
  float* const shared = dynamic_shared<float>();
  const int lane = lane_index();
  const std::int64_t result = w.work.first_result + blockIdx.z;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * columns;
  const std::int64_t own = first + warp_index() * each;
  const float* const small = w.small.data + w.small.offsets.at(result);
  const float* const stream =
      w.stream.data + w.stream.offsets.at(result) + own * w.stream.row_stride + lane * width;
  const std::int64_t k_end = smaller<std::int64_t>((blockIdx.y + 1) * w.split_k, w.k);
  float sums[rows * each] = {};
  for (std::int64_t k = blockIdx.y * w.split_k; k < k_end; k += skinny_chunk) {
    __syncthreads();
    load_chunk<rows, false>(w, small, k, k_end, shared);
    __syncthreads();
#pragma unroll(rows == 16 ? 1 : width == 4 ? 2 : 4)
    for (int at = 0; at < skinny_chunk; at += step) {
      float values[each][width] = {};
#pragma unroll
      for (int c = 0; c < each; ++c) {
        if (own + c < w.n && k + at + lane * width < k_end) {
          load(stream + c * w.stream.row_stride + k + at, values[c]);
        }
      }
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        float s[width];
        load(shared + r * skinny_chunk + at + lane * width, s);
#pragma unroll
        for (int c = 0; c < each; ++c) {
#pragma unroll
          for (int j = 0; j < width; ++j) {
            sums[r * each + c] = fmaf(s[j], values[c][j], sums[r * each + c]);
          }
        }
      }
    }
  }
  __syncthreads();
  constexpr int count = rows * each;
  const int index = sum_lanes<count, warp_size / 2>(sums);
  constexpr int same = count < warp_size ? warp_size / count : 1;  // lanes that have the same sum
  if (lane % same == 0) {
#pragma unroll
    for (int i = 0; i < larger(1, count / warp_size); ++i) {
      const int at = index + i;
      shared[at / each * columns + warp_index() * each + at % each] = sums[i];
    }
  }
  __syncthreads();
  finish_block(w, finish, shared, first, columns);
}

template <int rows, int width, class Finish>
void launch_skinny(const char* op, const SkinnyWork& w, bool along_columns, const Launch& shape,
                   const Finish& finish) {
  Launch sized = shape;
  if (along_columns) {
    constexpr int columns = warp_size * width;
    sized.grid.x = static_cast<unsigned>(ceil_div<std::int64_t>(w.n, columns));
    sized.shared_bytes = sizeof(float) * rows * larger(skinny_chunk, skinny_warps / 2 * columns);
    launch(op, sized, skinny_columns_kernel<rows, width, Finish>, w, finish);
  } else {
    constexpr int columns = skinny_warps * 4;
    sized.grid.x = static_cast<unsigned>(ceil_div<std::int64_t>(w.n, columns));
    sized.shared_bytes = sizeof(float) * rows * skinny_chunk;
    launch(op, sized, skinny_dots_kernel<rows, width, Finish>, w, finish);
  }
}

template <int width, class Finish>
void launch_skinny(const char* op, const SkinnyWork& w, bool along_columns, const Launch& shape,
                   const Finish& finish) {
  if (w.rows == 1) return launch_skinny<1, width>(op, w, along_columns, shape, finish);
  if (w.rows <= 4) return launch_skinny<4, width>(op, w, along_columns, shape, finish);
  if (w.rows <= 8) return launch_skinny<8, width>(op, w, along_columns, shape, finish);
  launch_skinny<16, width>(op, w, along_columns, shape, finish);
}

}  // namespace detail

// finish(A B) where A has few rows or B few columns, and nothing else is better; otherwise does
// nothing and returns false.
template <class Finish>
bool skinny_product(const char* op, const Problem& problem, const Matrix& a, const Matrix& b,
                    const Finish& finish) {
  using namespace detail;
  const bool transposed = problem.n < problem.m;
  const std::int64_t rows = transposed ? problem.n : problem.m;
  if (rows > most_skinny_rows || problem.terms != 1 || problem.first != nullptr) return false;
  if (rows == 0 || problem.results == 0) return true;
  SkinnyWork w{};
  w.small = transposed ? b : a;
  w.stream = transposed ? a : b;
  w.rows = static_cast<int>(rows);
  w.n = transposed ? problem.m : problem.n;
  w.k = problem.k;
  w.transposed = transposed;
  const bool along_columns = w.stream.row_stride == 1 && !(w.stream.k_stride == 1 && w.k > w.n);
  // Lanes along a short k would idle.
  if (!along_columns && w.k < 2 * warp_size) return false;
  const std::int64_t stride = along_columns ? w.stream.k_stride : w.stream.row_stride;
  const bool vectors = aligned_for_vectors(w.stream.data) && w.stream.even && stride % 4 == 0 &&
                       (along_columns ? w.n : w.k) % 4 == 0;

  // Blocks of 256 threads, some for each multiprocessor, and no fewer than 2 chunks of k in each.
  const std::int64_t block_columns = along_columns ? warp_size * (vectors ? 4 : 1) : 32;
  const std::int64_t blocks = ceil_div(w.n, block_columns) * problem.results;
  const std::int64_t wanted = ceil_div<std::int64_t>(4 * properties().multiprocessors, blocks);
  const std::int64_t most = larger<std::int64_t>(1, w.k / (2 * skinny_chunk));
  w.split_k =
      ceil_div<std::int64_t>(ceil_div(w.k, smaller(wanted, most)), skinny_chunk) * skinny_chunk;
  w.split_k = larger<std::int64_t>(w.split_k, skinny_chunk);
  w.work.problem = problem;
  w.work.splits = static_cast<int>(larger<std::int64_t>(1, ceil_div(w.k, w.split_k)));
  w.work.partial_row = ceil_div<std::int64_t>(problem.n, 4) * 4;
  const std::int64_t size = problem.results * problem.m * w.work.partial_row;
  const Scratch<float> partials(op, w.work.splits > 1 ? w.work.splits * size : 0);
  w.work.partials = partials.get();
  Launch shape;
  shape.block = dim3(skinny_threads);
  constexpr std::int64_t at_once = 65535;  // of a grid's third axis
  for (; w.work.first_result < problem.results; w.work.first_result += at_once) {
    shape.grid =
        dim3(1, static_cast<unsigned>(w.work.splits),
             static_cast<unsigned>(smaller(problem.results - w.work.first_result, at_once)));
    if (vectors) {
      launch_skinny<4>(op, w, along_columns, shape, finish);
    } else {
      launch_skinny<1>(op, w, along_columns, shape, finish);
    }
  }
  if (w.work.splits > 1) finish_splits(op, w.work, finish);
  return true;
}

}  // namespace lamella::device::gemm
