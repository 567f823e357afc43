// Attention of 16-bit elements on the device: which problems tensor cores take, and the launches.
#pragma once

#include "core/memory_pool.h"
#include "cuda/launch.cuh"
#include "ops/attention/attention_cuda_mma_backward.cuh"

namespace lamella::attention::tensor {

// Heads of up to 128 elements, in units of 16 bytes; arrays are 16-byte aligned.
template <class T>
bool suits_tensor_cores(const Problem& p) {
  const lamella::device::Properties& device = lamella::device::properties();
  const int64_t width = larger(p.size, p.value_size);
  const bool has_elements = device.capability() >= (std::is_same_v<T, __half> ? 75 : 80);
  const std::size_t bytes = width <= 64 ? TensorBackward<T, 64, 1, Own::queries>::bytes
                                        : TensorBackward<T, 128, 1, Own::queries, 1>::bytes;
  return has_elements && width <= 128 && p.size % 8 == 0 && p.value_size % 8 == 0 &&
         bytes <= device.shared_bytes;
}

template <class T, int size, int row_tiles>
void attend_with(const TypedProblem<T>& problem, const TypedResults<T>& out) {
  using Tile = TensorForward<T, size, row_tiles>;
  const Problem& p = problem.p;
  const int64_t tiles = ceil_div<int64_t>(p.queries * p.group(), Tile::rows);
  const bool general = changes_scores(p) || p.drops;
  lamella::device::launch(p.op,
                          {.grid = dim3(static_cast<unsigned>(tiles * p.batch * p.key_heads)),
                           .block = dim3(tensor_threads),
                           .shared_bytes = Tile::bytes},
                          general ? attend_on_tensor_cores<T, size, row_tiles, true>
                                  : attend_on_tensor_cores<T, size, row_tiles, false>,
                          problem, out, tiles);
}

template <class T>
void forward(const TypedProblem<T>& problem, const TypedResults<T>& out) {
  const Problem& p = problem.p;
  const lamella::device::Properties& device = lamella::device::properties();
  const int64_t blocks = ceil_div<int64_t>(p.queries * p.group(), 128) * p.batch * p.key_heads;
  const bool many = blocks >= 2 * int64_t{device.multiprocessors};
  if (larger(p.size, p.value_size) <= 64) {
    if (many && TensorForward<T, 64, 2>::bytes <= device.shared_bytes) {
      attend_with<T, 64, 2>(problem, out);
    } else {
      attend_with<T, 64, 1>(problem, out);
    }
  } else if (many && TensorForward<T, 128, 2>::bytes <= device.shared_bytes) {
    attend_with<T, 128, 2>(problem, out);
  } else {
    attend_with<T, 128, 1>(problem, out);
  }
}

template <class T, int size, int row_tiles, int columns, Own own, int stages = 2>
void differentiate_with(const TypedProblem<T>& problem, const TypedSaved<T>& saved, T* dq, T* dk,
                        T* dv) {
  using Tile = TensorBackward<T, size, row_tiles, own, stages>;
  const Problem& p = problem.p;
  const int64_t own_rows = own == Own::keys ? p.keys : p.queries * p.group();
  const int64_t tiles = ceil_div<int64_t>(own_rows, Tile::rows);
  const bool general = changes_scores(p) || p.drops;
  lamella::device::launch(
      p.op,
      {.grid = dim3(static_cast<unsigned>(tiles * p.batch * p.key_heads)),
       .block = dim3(tensor_threads),
       .shared_bytes = Tile::bytes},
      general ? differentiate_on_tensor_cores<T, size, row_tiles, columns, own, stages, true>
              : differentiate_on_tensor_cores<T, size, row_tiles, columns, own, stages, false>,
      problem, saved, tiles, dq, dk, dv);
}

// dlse, and each of the gradients, may be null.
template <class T>
void backward(const TypedProblem<T>& problem, const T* y, const float* lse, const T* dy,
              const float* dlse, T* dq, T* dk, T* dv) {
  const Problem& p = problem.p;
  const int64_t rows = p.batch * p.heads * p.queries;
  const Scratch<float> terms(p.op, rows);
  lamella::device::launch(
      p.op,
      {.grid = dim3(static_cast<unsigned>(ceil_div<int64_t>(rows, tensor_threads / 32))),
       .block = dim3(tensor_threads)},
      take_typed_row_terms<T>, p, y, dy, dlse, terms.get());
  const TypedSaved<T> saved = {dy, lse, terms.get()};
  const bool narrow = larger(p.size, p.value_size) <= 64;
  const std::size_t memory = lamella::device::properties().shared_bytes;
  if (dk != nullptr || dv != nullptr) {
    if (narrow && TensorBackward<T, 64, 2, Own::keys>::bytes <= memory) {
      differentiate_with<T, 64, 2, 32, Own::keys>(problem, saved, dq, dk, dv);
    } else if (narrow) {
      differentiate_with<T, 64, 1, 64, Own::keys>(problem, saved, dq, dk, dv);
    } else if (TensorBackward<T, 128, 1, Own::keys>::bytes <= memory) {
      differentiate_with<T, 128, 1, 32, Own::keys>(problem, saved, dq, dk, dv);
    } else {
      differentiate_with<T, 128, 1, 32, Own::keys, 1>(problem, saved, dq, dk, dv);
    }
  }
  if (dq == nullptr) return;
  if (narrow && TensorBackward<T, 64, 2, Own::queries>::bytes <= memory) {
    differentiate_with<T, 64, 2, 32, Own::queries>(problem, saved, dq, dk, dv);
  } else if (narrow) {
    differentiate_with<T, 64, 1, 64, Own::queries>(problem, saved, dq, dk, dv);
  } else if (TensorBackward<T, 128, 1, Own::queries>::bytes <= memory) {
    differentiate_with<T, 128, 1, 64, Own::queries>(problem, saved, dq, dk, dv);
  } else {
    differentiate_with<T, 128, 1, 64, Own::queries, 1>(problem, saved, dq, dk, dv);
  }
}

}  // namespace lamella::attention::tensor
