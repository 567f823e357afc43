// softmax and log_softmax along one axis of x, seen as (outer, size, inner): along `size`.
//
//   softmax      y_i = e^(x_i - m) / sum_j e^(x_j - m)          m = max_j x_j
//   log_softmax  y_i = (x_i - m) - log sum_j e^(x_j - m)
//
// Backward, from the result y alone:
//
//   softmax      dx_i = y_i (dy_i - sum_j dy_j y_j)
//   log_softmax  dx_i = dy_i - e^y_i sum_j dy_j
//
// A row that holds NaN or +inf, or nothing but -inf, has no softmax: it comes out NaN.
// All arrays are (outer, size, inner); none may overlap another.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace lamella::softmax {

struct Axis {
  std::int64_t outer;
  std::int64_t size;
  std::int64_t inner;
};

struct Kernels {
  void (*forward)(const Axis& axis, bool logarithm, const float* x, float* y);
  void (*backward)(const Axis& axis, bool logarithm, const float* dy, const float* y, float* dx);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::softmax
