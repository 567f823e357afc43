// C = f(A B + bias): the matrix product for every ISA, on the thread pool.
//
// Each element of C is one chain of fused multiply-adds over k in ascending order, cut only at
// multiples of a block length that depends on k alone: the result is the same for any number of
// threads. C is cut into one rectangle a thread. A thread copies what it needs of A and B into
// memory of its own rather than share packed panels: a line another core has just written costs
// several times what the copy does.
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

// How a product is cut and what is copied: from the sizes, the strides and the threads to use.
struct GemmPlan {
  std::int64_t m, n, k;
  int vectors;             // of a tile's width
  std::int64_t tile_rows;  // of a tile's height
  std::int64_t task_rows;  // a thread's rectangle of C; its columns are whole panels
  std::int64_t task_columns;
  std::int64_t m_block, n_block, k_block;  // what a thread holds of A and B at a time
  bool pack_a;
  bool pack_b;
  bool pack_last_panel;  // of a B read in place: its last vector would reach beyond the row
  int slots;             // threads at most
  std::int64_t slot_floats;

  std::int64_t workspace() const { return slots * slot_floats; }  // floats
};

// a (m, k), b (k, n). Sizes may be 0.
GemmPlan gemm_plan(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b,
                   int threads);

// c (m, n) with row stride ldc overlaps neither a nor b, whose strides are the plan's.
void gemm(const GemmPlan& plan, const Matrix& a, const Matrix& b, float* c, std::int64_t ldc,
          const Finish& finish, float* workspace);

// Copies columns [j, j + columns) of rows [0, k) of b into panel[k][width], zero-filled to width.
void pack_panel(const Matrix& b, std::int64_t k, std::int64_t j, std::int64_t columns,
                std::int64_t width, float* panel);

}  // namespace lamella::LAMELLA_ISA
