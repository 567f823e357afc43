// What the one-launch forms of both passes of the variant share: products of a step's tile, values
// that several blocks sum, and what the blocks keep besides a plain LSTM's.
#pragma once

#include "ops/lstm/lstm_cuda_variant.cuh"
#include "recurrent/forward.cuh"

namespace lamella::lstm {

// Besides the recurrent kernel's part a block has the projection's: forward the columns of its
// slice of h, backward its rows. Strides and sizes in floats of shared memory.
struct ProjectionShare {
  int slice;   // features of h of a block, a multiple of 4
  int width;   // columns of the product, whole tiles; 0: no projection
  int terms;   // padded to a multiple of 4
  int stride;  // between rows of its operand
  int sums_stride;
  int weight_floats, operand_floats;
  int sums_floats;  // of both products
};

// to[k][width] = kernel[k * row + column(c)], zeros where there is none (column < 0) or beyond.
template <class Column>
__device__ void load_columns(const float* kernel, std::int64_t rows, std::int64_t row, int terms,
                             int width, const Column& column, float* to) {
  for (int i = static_cast<int>(threadIdx.x); i < terms * width;
       i += static_cast<int>(blockDim.x)) {
    const int k = i / width;
    const std::int64_t c = column(i - k * width);
    to[i] = k < rows && c >= 0 ? kernel[k * row + c] : 0.0f;
  }
}

// sums[share of the terms][row][column] of a tile's rows; all threads.
template <class Tile>
__device__ void multiply_tile(const float* operand, int stride, const float* weights, int width,
                              int terms, int warps, float* sums, int sums_stride) {
  const auto grid = recurrent::WarpGrid::of<Tile>(width, warps);
  const int warp = gpu::warp_index();
  const int along = warp / grid.across;
  const int across = warp - along * grid.across;
  if (along >= grid.along) return;
  for (int column = across * Tile::columns; column < width; column += grid.across * Tile::columns) {
    recurrent::TileSums<Tile> tile;
    tile.clear();
    tile.multiply(operand, stride, weights + column, width, grid.term(terms, along),
                  grid.term(terms, along + 1));
    tile.each([&](int row, int c, float4 v) {
      *reinterpret_cast<float4*>(sums + (along * Tile::rows + row) * sums_stride + column + c) = v;
    });
  }
}

// What multiply_tile left for one row and column.
template <class Tile>
__device__ float tile_sum(const float* sums, int width, int warps, int sums_stride, int row,
                          int column) {
  const int along = recurrent::WarpGrid::of<Tile>(width, warps).along;
  float sum = 0.0f;
#pragma unroll 4
  for (int w = 0; w < along; ++w) sum += sums[(w * Tile::rows + row) * sums_stride + column];
  return sum;
}

// Shares of `along` warps in a product's sums.
constexpr int sums_floats(int rows, int width, int tile_columns, int warps, int stride) {
  const int tiles = width / tile_columns;
  return rows * stride * (tiles >= warps ? 1 : warps / tiles);
}

}  // namespace lamella::lstm
