// Tiles of float32 products on the FMA units: true float32, every sum one chain of fused
// multiply-adds over k.
//
// The limit is the FMA rate. A thread of an 8 x 8 tile reads 16 floats of shared memory for 64
// FMAs; smaller tiles are for smaller results.
#pragma once

#include "cuda/kernel.cuh"

namespace lamella::device::gemm {

template <class... Tile>
struct TileList {};

// A tile of `rows` x `depth` floats that holds columns. 4 floats between them spread what is copied
// along k over all banks.
template <int rows_, int depth_, int between = 4>
struct ColumnLayout {
  using Element = float;
  static constexpr int rows = rows_;
  static constexpr int depth = depth_;
  static constexpr int column = rows + between;
  static constexpr int size = depth * column;

  __host__ __device__ static constexpr int at(int row, int k) { return k * column + row; }
};

// warps_m x warps_n warps of 4 x 8 threads; a thread has thread_m x thread_n sums, in groups of 4 x
// 4 that lie 16 rows and 32 columns apart, so that its warp reads and writes neighbouring elements.
template <int warps_m, int warps_n, int thread_m, int thread_n, int stages_, int blocks_,
          int percent>
struct FmaTile {
  static constexpr int m = warps_m * 4 * thread_m;
  static constexpr int n = warps_n * 8 * thread_n;
  static constexpr int depth = 8;
  static constexpr int stages = stages_;
  static constexpr int threads = warps_m * warps_n * warp_size;
  static constexpr int blocks = blocks_;
  static constexpr double rate = 128 * percent / 100.0;
  static_assert(thread_m % 4 == 0 && thread_n % 4 == 0);

  static constexpr bool supported = true;  // by the architecture that is compiled for

  using Element = float;
  using A = ColumnLayout<m, depth>;
  using B = ColumnLayout<n, depth>;

  class Accumulators {
   public:
    static constexpr int width = 4;

    __device__ Accumulators() {
      const int warp = static_cast<int>(threadIdx.x) / warp_size;
      const int lane = static_cast<int>(threadIdx.x) % warp_size;
      row_ = warp / warps_n * 4 * thread_m + lane / 8 * 4;
      column_ = warp % warps_n * 8 * thread_n + lane % 8 * 4;
#pragma unroll
      for (int i = 0; i < thread_m; ++i) {
#pragma unroll
        for (int j = 0; j < thread_n; ++j) sums_[i][j] = 0.0f;
      }
    }

    __device__ void multiply(const float* a, const float* b) {
#pragma unroll
      for (int k = 0; k < depth; ++k) {
        float rows[thread_m];
#pragma unroll
        for (int i = 0; i < thread_m; i += 4) read(a + A::at(row_ + i * 4, k), rows + i);
#pragma unroll
        for (int j = 0; j < thread_n; j += 4) {
          float columns[4];
          read(b + B::at(column_ + j * 8, k), columns);
#pragma unroll
          for (int i = 0; i < thread_m; ++i) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
              sums_[i][j + c] = fmaf(rows[i], columns[c], sums_[i][j + c]);
            }
          }
        }
      }
    }

    template <bool unrolled, class Function>
    __device__ void visit(const Function& f) {
      if constexpr (unrolled) {
#pragma unroll
        for (int i = 0; i < thread_m; ++i) visit_row(f, i, sums_[i]);
      } else {
        // Registers have no index: each turn takes the first row, and the others move up.
#pragma unroll 1
        for (int i = 0; i < thread_m; ++i) {
          visit_row(f, i, sums_[0]);
#pragma unroll
          for (int r = 1; r < thread_m; ++r) {
#pragma unroll
            for (int j = 0; j < thread_n; ++j) sums_[r - 1][j] = sums_[r][j];
          }
        }
      }
    }

   private:
    __device__ static void read(const float* shared, float* to) {
      const float4 v = *reinterpret_cast<const float4*>(shared);
      to[0] = v.x;
      to[1] = v.y;
      to[2] = v.z;
      to[3] = v.w;
    }

    template <class Function>
    __device__ void visit_row(const Function& f, int i, const float (&sums)[thread_n]) {
      const int row = row_ + i / 4 * 16 + i % 4;
#pragma unroll
      for (int j = 0; j < thread_n; j += 4) {
        float values[4] = {sums[j], sums[j + 1], sums[j + 2], sums[j + 3]};
        f(row, column_ + j * 8, values);
      }
    }

    float sums_[thread_m][thread_n];
    int row_, column_;
  };
};

// For large results; for fewer columns; for small results, or where large tiles leave
// multiprocessors idle; for few rows.
using FmaTiles = TileList<FmaTile<4, 2, 8, 8, 4, 2, 90>,   // 128 x 128, 256 threads
                          FmaTile<4, 1, 8, 8, 4, 4, 85>,   // 128 x 64, 128 threads
                          FmaTile<2, 2, 8, 4, 4, 4, 75>,   // 64 x 64, 128 threads
                          FmaTile<2, 2, 4, 4, 4, 6, 60>>;  // 32 x 64, 128 threads

}  // namespace lamella::device::gemm
