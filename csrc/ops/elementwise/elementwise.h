// add and multiply with NumPy's broadcasting, and what merging layers need besides.
//
//   add          y = a + b      da = sum dy       db = sum dy
//   multiply     y = a b        da = sum dy b     db = sum dy a
//   accumulate   target += source
//   concatenate  y = the arrays one after another along an axis; backward cuts dy up again
//
// The sums run over the axes along which the operand was repeated. Their order depends on the
// shapes alone: blocks of fixed size first, then the blocks' sums in order, again in blocks.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace lamella::elementwise {

enum class Operation : int { add, multiply };

constexpr int max_axes = 64;  // NumPy's limit

// How the operands lie under the result (C order): neighbouring axes that both operands walk alike
// are one. Strides count elements; 0 where the operand is repeated. The last axis has strides 1
// and 1, 1 and 0, or 0 and 1.
struct Broadcast {
  int ndim;  // at least 1
  std::int64_t size[max_axes];
  std::int64_t a_stride[max_axes];
  std::int64_t b_stride[max_axes];
};

// A block of `rows` rows of n floats between arrays whose rows lie `*_stride` floats apart.
struct RowCopy {
  std::int64_t rows;
  std::int64_t n;
  const float* source;
  std::int64_t source_stride;
  float* target;
  std::int64_t target_stride;
};

struct Kernels {
  void (*binary)(Operation operation, const Broadcast& broadcast, const float* a, const float* b,
                 float* y);
  // sums (outer, inner) = the terms (outer, summed, inner) summed over the middle axis. A term is
  // dy, or dy times other where `other` is not null. `op` names the caller when memory runs out.
  void (*sum_axis)(const char* op, std::int64_t outer, std::int64_t summed, std::int64_t inner,
                   const float* dy, const float* other, float* sums);
  void (*accumulate)(std::int64_t size, const float* source, float* target);
  void (*copy_rows)(const RowCopy& copy);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::elementwise
