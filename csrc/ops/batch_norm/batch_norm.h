// Batch normalization of x, seen as (rows, channels): every channel alike over all rows.
//
//   y = gamma (x - mean) r + beta,  r = 1 / sqrt(variance + epsilon)
//
// mean and variance are given, or those of x itself (variance divided by the number of rows).
//
// Backward. With S = sum over rows of dy, and C = sum of dy (x - mean):
//   d_gamma = r C       d_beta = S
//   given:   dx = gamma r dy          d_mean = -gamma r S     d_variance = -gamma r^3 C / 2
//   x's own: dx = gamma r dy + (d_mean + 2 (x - mean) d_variance) / rows
//            where d_mean, d_variance are the above plus the gradients of the returned statistics
//
// Statistics are robust where mean >> deviation: each chunk of rows is summed around a mean of its
// own, and the chunks are combined in double, in order. So are the sums of backward. Each direction
// reads its inputs from memory twice: for the sums (whose second pass over a chunk finds it in
// cache), then for the result.
//
// gamma, beta may be null: 1 and 0. No array written may overlap another.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace lamella::batch_norm {

struct Forward {
  std::int64_t rows;
  std::int64_t channels;
  double epsilon;
  const float* x;      // (rows, channels)
  const float* gamma;  // (channels), as all below
  const float* beta;
  const float* mean;
  const float* variance;
  float* y;  // (rows, channels)
};

struct Backward {
  std::int64_t rows;
  std::int64_t channels;
  double epsilon;
  bool own_statistics;  // mean and variance are x's, and depend on it
  const float* dy;      // (rows, channels)
  const float* x;       // (rows, channels)
  const float* gamma;   // (channels), as all below but dx
  const float* mean;
  const float* variance;
  const float* d_own_mean;  // gradients of the returned statistics, or null
  const float* d_own_variance;
  float* dx;  // (rows, channels); null, as all below: not wanted
  float* d_gamma;
  float* d_beta;
  float* d_mean;  // given statistics only
  float* d_variance;
};

struct Kernels {
  // rows >= 1
  void (*statistics)(std::int64_t rows, std::int64_t channels, const float* x, float* mean,
                     float* variance);
  void (*forward)(const Forward& p);
  void (*backward)(const Backward& p);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::batch_norm
