// conv2d on the device: the convolution as a matrix product whose left operand is gathered from the
// image (conv2d_cuda_operands.cuh), and the table of the op's kernels.
//
// The FMA rate decides, but for few channels and filters, where x is read and y written.
#include "cuda/gemm.cuh"
#include "cuda/kernel.cuh"
#include "cuda/sum_axis.cuh"
#include "ops/conv2d/conv2d_cuda_axes.h"
#include "ops/conv2d/conv2d_cuda_finish.cuh"
#include "ops/conv2d/conv2d_cuda_parts.h"

namespace lamella::LAMELLA_ISA {

void correlate(const conv2d::Problem& p, const float* x, const float* kernel,
               const conv2d::Output& y) {
  if (p.batch == 0) return;
  if (p.depthwise()) return depthwise_correlate(p, x, kernel, y);
  const std::int64_t group_filters = p.filters / p.groups;
  const std::int64_t depth = p.taps() * (p.channels / p.groups);
  const std::int64_t pixels = p.batch * p.height.output * p.width.output;
  const bool vectors =
      group_filters % 4 == 0 && aligned_for_vectors(y.data, y.pre_activation, kernel);
  const gemm::Strided<float, true> weights{
      kernel, {nullptr, group_filters}, group_filters, depth, p.filters, vectors};
  const gemm::Problem product{pixels, group_filters, depth, p.groups};
  if (is_product(p) && p.groups == 1) {
    const gemm::Strided<float, false> image{x, {}, pixels, depth, depth, false};
    const gemm::Activate finish{y.data,  y.pre_activation, {},          p.filters,
                                vectors, y.bias,           y.activation};
    return gemm::product(ConvolutionTiles{}, "conv2d", product, image, weights, finish);
  }
  const DirectForward direct{DirectProblem(p), x, kernel};
  if (!fits_gather(p)) {
    return launch("conv2d", elements(pixels * p.filters, 1), sum_directly<DirectForward>, direct,
                  y);
  }
  const GatherAxes axes = forward_axes(p);
  const Gather<float> image(x, axes, p.batch, p.channels, p.groups);
  const ConvolutionFinish finish(y, direct, axes, p.groups, is_padded(p), vectors);
  gemm::product(ConvolutionTiles{}, "conv2d", product, image, weights, finish);
}

namespace {

void bias_gradient_of(const float* dz, std::int64_t rows, std::int64_t filters, float* dbias) {
  bias_gradient("conv2d", dz, rows, filters, dbias);
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::conv2d::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::correlate, kernel::input_gradient, kernel::kernel_gradient,
                                kernel::bias_gradient_of};

}  // namespace lamella::conv2d::LAMELLA_ISA
