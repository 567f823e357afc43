// layer_norm and rms_norm of the rows of x, seen as (rows, size), with another array added first.
//
//   s = x + residual                               x itself where there is no residual
//   layer_norm   y = gamma (s - mean) r + beta     r = 1 / sqrt(variance + epsilon)
//   rms_norm     y = gamma s r                     r = 1 / sqrt(mean of s^2 + epsilon)
//
// mean and variance (divided by size) are those of a row.
//
// Backward. With n = (s - mean) r or s r, g = gamma dy, and <> the mean over a row:
//   dgamma = sum over rows of dy n                 dbeta = sum over rows of dy
//   layer_norm   dx = r (g - <g> - n <g n>) + ds   ds: the gradient of the returned s, or 0
//   rms_norm     dx = r (g - n <g n>) + ds
// and the gradient of the residual is that of x.
//
// A mean rounded to float would be off by much where mean >> deviation. So a row's mean is held as
// a center near it and the mean of the distances from there, and n = (s - center) scale + shift.
//
// gamma and beta may be null: 1 and 0. No array written may overlap another.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace lamella::layer_norm {

struct Rows {
  const char* op;  // in whose name scratch memory is asked for
  std::int64_t rows;
  std::int64_t size;  // at least 1
};

// What backward needs of each row. rms_norm has scales only.
struct Statistics {
  float* center;  // (rows), as the others
  float* scale;
  float* shift;
};

struct Forward {
  Rows shape;
  double epsilon;
  const float* x;         // (rows, size)
  const float* residual;  // (rows, size) or null
  const float* gamma;     // (size)
  const float* beta;      // (size)
  float* y;               // (rows, size)
  float* s;               // (rows, size), null without residual
  Statistics saved;       // null where there will be no backward pass
};

struct Backward {
  Rows shape;
  const float* dy;     // (rows, size)
  const float* ds;     // (rows, size) or null
  const float* s;      // (rows, size)
  const float* gamma;  // (size)
  Statistics saved;
  float* dx;         // (rows, size); null, as all below: not wanted
  float* dresidual;  // (rows, size), equal to dx
  float* dgamma;     // (size)
  float* dbeta;      // (size)
};

// `centered`: layer_norm, else rms_norm.
struct Kernels {
  void (*forward)(bool centered, const Forward& p);
  void (*backward)(bool centered, const Backward& p);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::layer_norm
