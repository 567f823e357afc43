// dense: y = f(x W + b) over the last axis, and matmul, the plain product over batches.
//
//   dense    x (rows, D), kernel (D, U), bias (U) -> y (rows, U), f an activation
//            dz = dy f'; dx = dz W^T; dW = x^T dz; db = sum of dz over rows
//   matmul   a (batch, M, K), b (batch, K, N) -> c (batch, M, N), either operand transposed
//
// Forward keeps y, or the pre-activation z where f's derivative needs it (activation.h).
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "ops/activation/activation.h"

namespace lamella::dense {

struct Forward {
  std::int64_t rows, inputs, units;
  const float* x;
  const float* kernel;
  const float* bias;  // (units) or null
  activation::Activation activation;
  float* pre_activation;  // (rows, units) or null
  float* y;
};

// A null output is not computed. dz may be dy itself where f is linear.
struct Backward {
  std::int64_t rows, inputs, units;
  const float* dz;  // (rows, units)
  const float* x;
  const float* kernel;
  float* dx;
  float* dkernel;
  float* dbias;
};

// Each matrix lies with its own strides in its batch: element (i, j) of matrix q of a is
// a[a_offset[q] + i * a_row + j * a_column]; one of the two strides is 1.
struct Matmul {
  std::int64_t batch, m, n, k;
  const float* a;
  const std::int64_t* a_offset;
  std::int64_t a_row, a_column;
  const float* b;
  const std::int64_t* b_offset;
  std::int64_t b_row, b_column;
  float* c;
  const std::int64_t* c_offset;
  bool accumulate;  // matrices with equal c_offset are summed in batch order
};

struct Kernels {
  void (*forward)(const Forward&);
  void (*backward)(const Backward&);
  void (*matmul)(const Matmul&);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::dense
