// The product of a step on one block: rows of an operand in shared memory times weights that stay
// there for the whole sequence. float32 FMAs decide; a warp's tile reads (rows + columns) floats of
// shared memory for rows * columns multiply-adds, so tiles are as square as the problem allows.
//
// A warp computes 4 * Tile::rows_each rows by 8 * Tile::columns_each columns, a lane of them
// rows_each by columns_each: lane / 8 + 4 i, and 4 columns at lane % 8 * 4 + 32 i. Warps divide the
// columns, and what is left of them the terms; the sums of the latter are added in order.
#pragma once

#include "cuda/kernel.cuh"

namespace lamella::recurrent {

template <int rows_each_, int columns_each_>
struct TileShape {
  static constexpr int rows_each = rows_each_;
  static constexpr int columns_each = columns_each_;
  static constexpr int rows = 4 * rows_each;
  static constexpr int columns = 8 * columns_each;
};

template <class Tile>
struct TileSums {
  float sum[Tile::rows_each][Tile::columns_each];

  __device__ void clear() {
#pragma unroll
    for (int r = 0; r < Tile::rows_each; ++r) {
#pragma unroll
      for (int c = 0; c < Tile::columns_each; ++c) sum[r][c] = 0.0f;
    }
  }

  // += a[row][k] b[k][column] over k in [begin, end), multiples of 4. Both in shared memory, at
  // the tile's first row and column; strides are multiples of 4, a's no multiple of 8.
  __device__ void multiply(const float* a, int a_stride, const float* b, int b_stride, int begin,
                           int end) {
    const int lane = static_cast<int>(threadIdx.x) % device::warp_size;
    const float* const a_lane = a + lane / 8 * a_stride;
    const float* const b_lane = b + lane % 8 * 4;
#pragma unroll 2
    for (int k = begin; k < end; k += 4) {
      float x[Tile::rows_each][4];
#pragma unroll
      for (int r = 0; r < Tile::rows_each; ++r) {
        const float4 v = *reinterpret_cast<const float4*>(a_lane + 4 * r * a_stride + k);
        x[r][0] = v.x;
        x[r][1] = v.y;
        x[r][2] = v.z;
        x[r][3] = v.w;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float w[Tile::columns_each];
#pragma unroll
        for (int c = 0; c < Tile::columns_each; c += 4) {
          const float4 v = *reinterpret_cast<const float4*>(b_lane + (k + i) * b_stride + c * 8);
          w[c] = v.x;
          w[c + 1] = v.y;
          w[c + 2] = v.z;
          w[c + 3] = v.w;
        }
#pragma unroll
        for (int r = 0; r < Tile::rows_each; ++r) {
#pragma unroll
          for (int c = 0; c < Tile::columns_each; ++c) sum[r][c] = fmaf(x[r][i], w[c], sum[r][c]);
        }
      }
    }
  }

  // body(row of the tile, column of the tile, four values of the row)
  template <class Body>
  __device__ void each(const Body& body) const {
    const int lane = static_cast<int>(threadIdx.x) % device::warp_size;
#pragma unroll
    for (int r = 0; r < Tile::rows_each; ++r) {
#pragma unroll
      for (int c = 0; c < Tile::columns_each; c += 4) {
        body(lane / 8 + 4 * r, lane % 8 * 4 + c * 8,
             make_float4(sum[r][c], sum[r][c + 1], sum[r][c + 2], sum[r][c + 3]));
      }
    }
  }
};

// How the warps of a block divide a product of `width` columns (whole tiles): `across` of them side
// by side, each every across-th tile, and so many times `along` the terms.
struct WarpGrid {
  int across, along;

  template <class Tile>
  __host__ __device__ static constexpr WarpGrid of(int width, int warps) {
    const int tiles = width / Tile::columns;
    return tiles >= warps ? WarpGrid{warps, 1} : WarpGrid{tiles, warps / tiles};
  }
  // Terms [begin, end) of share i of `terms`, which like them is a multiple of 4.
  __host__ __device__ constexpr int term(int terms, int i) const {
    return terms / 4 * i / along * 4;
  }
};

}  // namespace lamella::recurrent
