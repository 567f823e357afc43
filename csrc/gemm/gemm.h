// C = f(A B + bias): the matrix product for every ISA, on the thread pool.
//
// Each element of C is one chain of fused multiply-adds over k in ascending order, cut only at
// multiples of a block length that depends on the shape: the result is the same for any number of
// threads. Small operands are read where they lie; large ones are copied into panels block by
// block.
#pragma once

#include "ops/activation/activation_simd.h"
#include "simd/vec.h"

namespace lamella::LAMELLA_ISA {

// element(i, j) = data[i * row_stride + j * column_stride]; one of the strides is 1.
struct Matrix {
  const float* data;
  std::int64_t row_stride;
  std::int64_t column_stride;
};

// What happens to the product on its way to memory.
struct Finish {
  const float* bias = nullptr;  // (n)
  Activation activation = {};
  float* pre_activation = nullptr;  // (m, n) with C's row stride: the argument of the activation
  bool accumulate = false;          // C += A B; then no bias, no activation
};

// Floats of workspace that gemm needs for these sizes.
std::int64_t gemm_workspace(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a,
                            const Matrix& b);

// a (m, k), b (k, n), c (m, n) with row stride ldc. c overlaps neither a nor b. Sizes may be 0.
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b,
          float* c, std::int64_t ldc, const Finish& finish, float* workspace);

// Copies columns [j, j + columns) of rows [0, k) of b into panel[k][width], zero-filled to width.
void pack_panel(const Matrix& b, std::int64_t k, std::int64_t j, std::int64_t columns,
                std::int64_t width, float* panel);

}  // namespace lamella::LAMELLA_ISA
