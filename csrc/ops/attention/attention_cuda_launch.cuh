// How the device kernels of attention are cut, on the host, and what goes before and after those of
// backward: the terms of rows, and sums of splits.
#pragma once

#include "core/memory_pool.h"
#include "cuda/launch.cuh"
#include "ops/attention/attention_cuda_backward.cuh"

namespace lamella::attention::tiles {

// Thread blocks that fill the device once, two to a multiprocessor.
inline int64_t blocks_wanted() {
  return int64_t{lamella::device::properties().multiprocessors} * 2;
}

// `rows` of a head.
template <int width>
BackwardShape backward_shape(const Problem& p, int64_t rows) {
  return {ceil_div<int64_t>(rows, backward_rows),
          ceil_div<int64_t>(p.keys, tile_keys),
          static_cast<int>(ceil_div<int64_t>(p.size, width)),
          static_cast<int>(ceil_div<int64_t>(p.value_size, width)),
          fits_vectors(p.query, p.size) && fits_vectors(p.key, p.size),
          fits_vectors(p.value, p.value_size),
          1};
}

// The widest tiles that a block has memory for and use of: what is wider goes through E and Ev in
// chunks.
inline int backward_columns(const Problem& p) {
  const std::size_t memory = lamella::device::properties().shared_bytes;
  const int64_t width = larger(p.size, p.value_size);
  if (width > 64 && PairTile<4, true>::bytes <= memory) return 4;
  return width > 32 && PairTile<2, true>::bytes <= memory ? 2 : 1;
}

// Where b is 0 it counts for nothing.
__device__ inline float dot_unless_zero(const float* a, const float* b, int64_t size) {
  float sum = 0.0f;
  for (int64_t i = lane(); i < size; i += 32) {
    const float weight = b[i];
    if (weight != 0.0f) sum = fmaf(a[i], weight, sum);
  }
  return sum;
}

// D of each row of (N,A,S), a warp each. Reads decide.
template <int warps>
__global__ void __launch_bounds__(warps * 32)
    take_row_terms(const Problem p, const Saved saved, float* terms) {
  const int64_t row = int64_t{blockIdx.x} * warps + warp();
  if (row >= p.batch * p.heads * p.queries) return;
  const int64_t head = row / p.queries;
  const int64_t at =
      ((head / p.heads * p.queries + row % p.queries) * p.heads + head % p.heads) * p.value_size;
  float sum = 0.0f;
  if (saved.dy != nullptr) sum = dot_unless_zero(saved.dy + at, saved.y + at, p.value_size);
  if (saved.dweights != nullptr) {
    sum += dot_unless_zero(saved.dweights + row * p.keys, saved.weights + row * p.keys, p.keys);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(all_lanes, sum, step);
  if (lane() != 0) return;
  if (saved.dlse != nullptr) sum -= saved.dlse[row];
  terms[row] = sum;
}

inline void find_row_terms(const Problem& p, const Saved& saved, float* terms) {
  constexpr int warps = 4;
  const int64_t rows = p.batch * p.heads * p.queries;
  lamella::device::launch(p.op,
                          {.grid = dim3(static_cast<unsigned>(ceil_div<int64_t>(rows, warps))),
                           .block = dim3(warps * 32)},
                          take_row_terms<warps>, p, saved, terms);
}

// Of each element of `splits` arrays of `size`, one after the other.
template <class T>
__global__ void add_splits(const T* parts, int64_t splits, int64_t size, T* out) {
  for (int64_t i = lamella::device::grid_thread(); i < size; i += lamella::device::grid_threads()) {
    T sum = parts[i];
    for (int64_t split = 1; split < splits; ++split) sum += parts[split * size + i];
    out[i] = sum;
  }
}

// Where a gradient goes whose sum is cut into splits: to memory of its own first.
class SplitSum {
 public:
  SplitSum(const Problem& p, float* out, int64_t size, int splits)
      : op_(p.op),
        out_(out),
        size_(size),
        splits_(splits),
        parts_(p.op, out == nullptr || splits == 1 ? 0 : splits * size) {}
  float* get() const { return out_ == nullptr || splits_ == 1 ? out_ : parts_.get(); }
  void finish() const {
    if (out_ == nullptr || splits_ == 1) return;
    lamella::device::launch(op_, lamella::device::elements(size_), add_splits<float>, parts_.get(),
                            splits_, size_, out_);
  }

 private:
  const char* op_;
  float* out_;
  int64_t size_;
  int splits_;
  Scratch<float> parts_;
};

// So many that blocks fill the device, as far as there is something to split.
inline int splits_for(int64_t blocks, int64_t turns) {
  constexpr int64_t most = 16;
  const int64_t wanted = blocks_wanted() / larger<int64_t>(1, blocks);
  return static_cast<int>(larger<int64_t>(1, smaller(smaller(most, wanted), turns)));
}

}  // namespace lamella::attention::tiles
