// Group normalization of images x, seen as (images, rows, channels): the channels of each image are
// cut into `groups` runs of neighbours, and each run is normalized over the rows and its channels.
//
//   y = gamma (x - mean) r + beta,  r = 1 / sqrt(variance + epsilon)
//
// mean and variance (divided by the number of elements) are those of one run of one image.
//
// Backward. With n = (x - mean) r, g = gamma dy, and <> the mean over a run:
//   dgamma = sum over images and rows of dy n       dbeta = sum over images and rows of dy
//   dx = r (g - <g> - n <g n>)
//
// A run's mean is held as a center near it and the distance from there, so that it is exact where
// mean >> deviation: n = (x - center) scale + shift.
//
// gamma and beta may be null: 1 and 0. No array written may overlap another.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace lamella::group_norm {

struct Images {
  std::int64_t images;
  std::int64_t rows;      // of an image, at least 1
  std::int64_t channels;  // a multiple of groups
  std::int64_t groups;    // at least 1
};

// What backward needs of each run.
struct Statistics {
  float* center;  // (images, groups), as the others
  float* scale;
  float* shift;
};

struct Forward {
  Images shape;
  double epsilon;
  const float* x;      // (images, rows, channels)
  const float* gamma;  // (channels)
  const float* beta;   // (channels)
  float* y;            // (images, rows, channels)
  Statistics saved;    // null where there will be no backward pass
};

struct Backward {
  Images shape;
  const float* dy;     // (images, rows, channels)
  const float* x;      // (images, rows, channels)
  const float* gamma;  // (channels)
  Statistics saved;
  float* dx;      // (images, rows, channels); null, as the others: not wanted
  float* dgamma;  // (channels)
  float* dbeta;   // (channels)
};

struct Kernels {
  void (*forward)(const Forward& p);
  void (*backward)(const Backward& p);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::group_norm
