// What the two directions of layer_norm share on the device.
#pragma once

#include "cuda/row_team.cuh"
#include "ops/layer_norm/layer_norm.h"

namespace lamella::layer_norm::device {

using namespace lamella::device;

// Defined in layer_norm_cuda_backward.cu.
void backward(bool centered, const Backward& p);

// Where a block's piece of a row lies, of rows that are cut into `pieces`.
template <class Piece>
struct PiecePlace {
  std::int64_t row;
  std::int64_t column;
  std::int64_t first;
  RowPart<Piece> part;

  __device__ PiecePlace(const Rows& shape, std::int64_t pieces, bool aligned)
      : row(blockIdx.x / pieces),
        column(blockIdx.x % pieces * Piece::capacity),
        first(row * shape.size + column),
        part{static_cast<int>(threadIdx.x),
             static_cast<int>(smaller<std::int64_t>(shape.size - column, Piece::capacity)),
             aligned} {}
};

}  // namespace lamella::layer_norm::device
