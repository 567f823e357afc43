// The gradient of a kernel that multiplied rows, and of the bias added to them.
#pragma once

#include "ops/conv2d/conv2d_taps.h"

namespace lamella::LAMELLA_ISA {

// dkernel (terms, columns) = x^T dz, dbias (columns) = sums of dz over rows, unless it is null.
// x (rows, terms), dz (rows, columns). It is the kernel gradient of a convolution with one tap.
inline void weight_gradient(std::int64_t rows, std::int64_t terms, const float* x,
                            std::int64_t columns, const float* dz, float* dkernel, float* dbias) {
  const WindowAxis one = {1, 1, 1, 1, 0, 0, 1};
  const WindowAxis pixels = {rows, 1, 1, 1, 0, 0, rows};
  kernel_gradient({1, one, pixels, terms, columns, 1}, x, {{}, dz, nullptr},
                  {dkernel, dbias, nullptr});
}

}  // namespace lamella::LAMELLA_ISA
