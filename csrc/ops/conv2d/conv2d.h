// 2-D convolution (cross-correlation, as in every framework), NHWC, kernel (KH, KW, C/G, F).
//
//   y[n, i, j, f] = act( bias[f] + sum over p, q, c of
//                        x[n, i*sh + p*dh - top, j*sw + q*dw - left, g*C/G + c] * kernel[p, q, c,
//                        f] )
//
// where g = f / (F/G) is f's group, x outside the image is 0, and WindowAxis holds strides s,
// dilations d and paddings. With G = C it is the depthwise convolution: filter c*m + k belongs to
// channel c (m = F / C).
//
//   input gradient    dx[n, a, b, c] = sum over p, q, f of dz[n, i, j, f] * kernel[p, q, c, f]
//                     over all i, j with i*sh + p*dh - top = a, j*sw + q*dw - left = b
//   kernel gradient   dkernel[p, q, c, f] = sum over n, i, j of
//                     x[n, i*sh + p*dh - top, j*sw + q*dw - left, c] * dz[n, i, j, f]
//
// The transposed convolution is the input gradient as a forward pass; its gradients are the
// convolution and the kernel gradient with x and dz in each other's place. conv1d is the case
// H = KH = 1. No op here builds an im2col matrix: the products run over the image in place, or,
// where there is padding, over a zero-framed copy of the few rows a task works on.
//
// Forward keeps y, or the pre-activation z where the activation's derivative needs it.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "core/window_axis.h"
#include "ops/activation/activation.h"

namespace lamella::conv2d {

struct Problem {
  std::int64_t batch;
  WindowAxis height;
  WindowAxis width;
  std::int64_t channels;  // C
  std::int64_t filters;   // F
  std::int64_t groups;    // G, divides both

  bool depthwise() const { return groups == channels && groups > 1; }
  std::int64_t taps() const { return height.kernel * width.kernel; }
};

// What is done to a result on its way to memory.
struct Output {
  const float* bias;  // one value a channel of the result, or null
  activation::Activation activation;
  float* pre_activation;  // as large as the result, or null
  float* data;
};

// dz = dy f'(saved), the gradient of a convolution's result before its activation; `saved` is what
// a fused forward pass keeps (activation.h).
struct OutputGradient {
  activation::Activation activation;
  const float* dy;
  const float* saved;
};

struct KernelGradients {
  float* dkernel;
  float* dbias;  // or null
  float* dz;     // or null
};

// None of the outputs overlaps an input.
struct Kernels {
  // x (N,H,W,C), kernel -> y (N,OH,OW,F)
  void (*correlate)(const Problem&, const float* x, const float* kernel, const Output& y);
  // dz (N,OH,OW,F), kernel -> dx (N,H,W,C)
  void (*input_gradient)(const Problem&, const float* dz, const float* kernel, const Output& dx);
  // x, dz -> dkernel (KH,KW,C/G,F) and on request dbias (F), dz itself (N,OH,OW,F)
  void (*kernel_gradient)(const Problem&, const float* x, const OutputGradient&,
                          const KernelGradients&);
  // dz (rows, F) -> dbias (F)
  void (*bias_gradient)(const float* dz, std::int64_t rows, std::int64_t filters, float* dbias);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::conv2d
