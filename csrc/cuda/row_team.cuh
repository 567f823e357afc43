// Rows that are the work of a team of threads, some lanes of a warp or a block, and that lie in the
// team's registers between one read and one write: what softmax, layer_norm and crossentropy share.
#pragma once

#include <cstdint>

#include "cuda/kernel.cuh"
#include "cuda/pointwise.cuh"
#include "cuda/reduce.cuh"

namespace lamella::device {

// `threads` of them: a power of two. Each holds `vectors` times four elements of a row.
template <int threads_, int vectors_, int block_ = (threads_ < 128 ? 128 : threads_)>
struct RowTeam {
  static constexpr int threads = threads_;
  static constexpr int vectors = vectors_;
  static constexpr int held = 4 * vectors;         // elements a thread
  static constexpr int capacity = threads * held;  // elements of a row
  static constexpr int block = block_;             // threads
  static constexpr int rows = block / threads;     // of a block at a time
  static constexpr int slots = 32;                 // that a reduction of one value shares
};

// Which elements of a row of at most Team::capacity a thread has: groups of four neighbours where
// rows begin at multiples of 16 bytes, else every `threads`th. Either way a warp's accesses are
// neighbours.
template <class Team>
struct RowPart {
  int rank;  // of the thread in its team
  int size;  // of the row; 0 where there is none
  bool aligned;

  __device__ int column(int vector, int lane) const {
    return aligned ? 4 * (vector * Team::threads + rank) + lane
                   : (4 * vector + lane) * Team::threads + rank;
  }

  // The four elements of vector i; `absent` behind the row's end.
  __device__ void load_vector(const float* row, int i, float absent, float* v) const {
    if (aligned) {
      const int c = column(i, 0);
      float4 q = make_float4(absent, absent, absent, absent);
      if (c < size) q = *reinterpret_cast<const float4*>(row + c);
      v[0] = q.x;
      v[1] = q.y;
      v[2] = q.z;
      v[3] = q.w;
      return;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int c = column(i, j);
      v[j] = c < size ? row[c] : absent;
    }
  }

  __device__ void store_vector(float* row, int i, const float* v) const {
    if (aligned) {
      const int c = column(i, 0);
      if (c < size) *reinterpret_cast<float4*>(row + c) = make_float4(v[0], v[1], v[2], v[3]);
      return;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int c = column(i, j);
      if (c < size) row[c] = v[j];
    }
  }

  __device__ void load(const float* row, float absent, float (&v)[Team::held]) const {
#pragma unroll
    for (int i = 0; i < Team::vectors; ++i) load_vector(row, i, absent, v + 4 * i);
  }

  __device__ void store(float* row, const float (&v)[Team::held]) const {
#pragma unroll
    for (int i = 0; i < Team::vectors; ++i) store_vector(row, i, v + 4 * i);
  }

  // body(k, column) for the elements of the row that the thread has; v[k] above.
  template <class Body>
  __device__ void each(const Body& body) const {
#pragma unroll
    for (int k = 0; k < Team::held; ++k) {
      const int c = column(k / 4, k % 4);
      if (c < size) body(k, c);
    }
  }
};

// The values v of a team combined, in all of its threads alike; every thread of the block calls it.
// `slots`: shared memory, 32 * `count` values that no other reduction uses until the next barrier.
template <class Op, int threads, int count, class T>
__device__ void reduce_team(T (&v)[count], T* slots) {
#pragma unroll
  for (int k = 0; k < count; ++k) {
    v[k] = warp_reduce<(threads < warp_size ? threads : warp_size)>(v[k], Op());
  }
  if constexpr (threads > warp_size) {
    constexpr int warps = threads / warp_size;
    // Where a block has several teams, each has slots of its own.
    const int first = warp_index() / warps * warps;
    if (lane_index() == 0) {
#pragma unroll
      for (int k = 0; k < count; ++k) slots[k * 32 + warp_index()] = v[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < count; ++k) {
      v[k] = warp_reduce<warps>(slots[k * 32 + first + lane_index() % warps], Op());
    }
  }
}

template <class Team>
__device__ float team_sum(float v, float* slots) {
  float values[1] = {v};
  reduce_team<Sum, Team::threads>(values, slots);
  return values[0];
}

template <class Team>
__device__ float team_maximum(float v, float* slots) {
  float values[1] = {v};
  reduce_team<Maximum, Team::threads>(values, slots);
  return values[0];
}

// The row of this thread's team, of those of the whole grid.
template <class Team>
__device__ std::int64_t team_row() {
  return static_cast<std::int64_t>(blockIdx.x) * Team::rows +
         static_cast<int>(threadIdx.x) / Team::threads;
}

// choice(RowTeam<...>{}) of the smallest team that holds a row of `size`; false where none does.
template <class Choice>
bool with_row_team(std::int64_t size, const Choice& choice) {
  if (size <= RowTeam<8, 1>::capacity) return choice(RowTeam<8, 1>{}), true;      // 32
  if (size <= RowTeam<32, 1>::capacity) return choice(RowTeam<32, 1>{}), true;    // 128
  if (size <= RowTeam<32, 4>::capacity) return choice(RowTeam<32, 4>{}), true;    // 512
  if (size <= RowTeam<128, 4>::capacity) return choice(RowTeam<128, 4>{}), true;  // 2048
  if (size <= RowTeam<256, 4>::capacity) return choice(RowTeam<256, 4>{}), true;  // 4096
  if (size <= RowTeam<512, 4>::capacity) return choice(RowTeam<512, 4>{}), true;  // 8192
  if (size <= RowTeam<512, 8>::capacity) return choice(RowTeam<512, 8>{}), true;  // 16384
  return false;
}

}  // namespace lamella::device
