// What conv2d's device sources give each other. Host functions that queue kernels; all pointers are
// the device's.
#pragma once

#include "ops/conv2d/conv2d.h"

namespace lamella::device {

// conv2d.h's Kernels for p.depthwise(): conv2d_cuda_depthwise.cu.
void depthwise_correlate(const conv2d::Problem& p, const float* x, const float* kernel,
                         const conv2d::Output& y);
void depthwise_input_gradient(const conv2d::Problem& p, const float* dz, const float* kernel,
                              const conv2d::Output& dx);
void depthwise_kernel_gradient(const conv2d::Problem& p, const float* x, const float* dz,
                               float* dkernel);

// All others: conv2d_cuda.cu, conv2d_cuda_input_gradient.cu, conv2d_cuda_kernel_gradient.cu.
void correlate(const conv2d::Problem& p, const float* x, const float* kernel,
               const conv2d::Output& y);
void input_gradient(const conv2d::Problem& p, const float* dz, const float* kernel,
                    const conv2d::Output& dx);
void kernel_gradient(const conv2d::Problem& p, const float* x, const conv2d::OutputGradient& g,
                     const conv2d::KernelGradients& out);

// Whether the convolution is a product of matrices as they lie: one tap, on every pixel once.
constexpr bool is_product(const conv2d::Problem& p) {
  const auto plain = [](const WindowAxis& a) {
    return a.kernel == 1 && a.stride == 1 && a.pad_before == 0 && a.output == a.input;
  };
  return plain(p.height) && plain(p.width);
}

// Whether some window reaches beyond the image.
constexpr bool is_padded(const conv2d::Problem& p) {
  const auto padded = [](const WindowAxis& a) {
    return a.pad_before > 0 || (a.output - 1) * a.stride + a.extent() > a.input;
  };
  return padded(p.height) || padded(p.width);
}

}  // namespace lamella::device
