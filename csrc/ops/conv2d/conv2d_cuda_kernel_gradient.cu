// The kernel gradient: (tap, channel) by filters, one long sum over the pixels of dz. The product
// cuts it into chunks, whose sums a second kernel adds in order. The FMA rate decides.
//
// Where there is an activation, one pass before it makes dz and the sums for the bias: bytes decide
// (dy and saved read, dz written).
#include "cuda/gemm.cuh"
#include "cuda/kernel.cuh"
#include "cuda/math.cuh"
#include "cuda/sum_axis.cuh"
#include "ops/conv2d/conv2d_cuda_axes.h"
#include "ops/conv2d/conv2d_cuda_direct.cuh"
#include "ops/conv2d/conv2d_cuda_parts.h"

namespace lamella::LAMELLA_ISA {
namespace {

constexpr const char* op = "conv2d";

// dz = dy f'(saved), as it is written, and as the terms of the bias gradient.
struct GradientTerms {
  conv2d::OutputGradient g;
  float* dz;

  template <int width>
  __device__ void get(std::int64_t i, float (&values)[width]) const {
    float saved[width];
    load(g.dy + i, values);
    load(g.saved + i, saved);
    gradient_from_saved(g.activation, saved, values);
    store(dz + i, values);
  }

  template <int width>
  __device__ void run(std::int64_t i) const {
    float values[width];
    get(i, values);
  }
};

void output_gradient(const conv2d::OutputGradient& g, std::int64_t rows, std::int64_t filters,
                     float* dz, float* dbias) {
  const GradientTerms terms{g, dz};
  const bool vectors = aligned_for_vectors(g.dy, g.saved, dz);
  if (dbias != nullptr) {
    sum_axis(op, 1, rows, filters, vectors, terms, dbias);
  } else {
    pointwise(op, rows * filters, vectors, terms);
  }
}

__global__ void __launch_bounds__(256)
    kernel_gradient_directly(DirectKernel direct, float* dkernel) {
  const DirectProblem& p = direct.p;
  const std::int64_t depth = p.group_channels();
  const std::int64_t size = p.height.window.kernel * p.width.window.kernel * depth * p.filters;
  for (std::int64_t i = grid_thread(); i < size; i += grid_threads()) {
    const std::int64_t f = i % p.filters;
    const std::int64_t c = i / p.filters % depth;
    const std::int64_t tap = i / p.filters / depth;
    dkernel[i] = direct.sum(tap / p.width.window.kernel, tap % p.width.window.kernel, c, f);
  }
}

// Of images [begin, end): the first ones write dkernel, others add to it.
void product_over_images(const conv2d::Problem& p, std::int64_t begin, std::int64_t end,
                         const float* all_x, const float* all_dz, float* dkernel) {
  const std::int64_t group_channels = p.channels / p.groups;
  const std::int64_t group_filters = p.filters / p.groups;
  const std::int64_t rows = p.taps() * group_channels;
  const std::int64_t image_pixels = p.height.output * p.width.output;
  const std::int64_t pixels = (end - begin) * image_pixels;
  const float* const x = all_x + begin * p.height.input * p.width.input * p.channels;
  const float* const dz = all_dz + begin * image_pixels * p.filters;
  const gemm::Problem product{rows, group_filters, pixels, p.groups};
  const gemm::Offsets offsets{nullptr, group_filters};
  const bool even = group_filters % 4 == 0;
  const gemm::Strided<float, true> gradient{dz,     offsets,   group_filters,
                                            pixels, p.filters, even && aligned_for_vectors(dz)};
  const gemm::Store finish{dkernel,   offsets, p.filters, even && aligned_for_vectors(dkernel),
                           begin > 0, nullptr};
  const bool vectors = group_channels % 4 == 0 && aligned_for_vectors(x);
  if (is_product(p)) {
    const gemm::Strided<float, true> image{
        x, {nullptr, group_channels}, group_channels, pixels, p.channels, vectors};
    return gemm::product(ConvolutionTiles{}, op, product, image, gradient, finish);
  }
  const Patches<float> image(x, forward_axes(p), end - begin, p.channels, p.groups, vectors);
  gemm::product(ConvolutionTiles{}, op, product, image, gradient, finish);
}

void product_over_pixels(const conv2d::Problem& p, const float* x, const float* dz,
                         float* dkernel) {
  if (p.depthwise()) return depthwise_kernel_gradient(p, x, dz, dkernel);
  if (!fits_gather(p)) {
    const DirectKernel direct{DirectProblem(p), x, dz};
    const std::int64_t size = p.taps() * (p.channels / p.groups) * p.filters;
    return launch(op, elements(size, 1), kernel_gradient_directly, direct, dkernel);
  }
  // As many pixels as Patches counts.
  const std::int64_t images =
      larger<std::int64_t>((std::int64_t{1} << 30) / (p.height.output * p.width.output), 1);
  for (std::int64_t n = 0; n < p.batch; n += images) {
    product_over_images(p, n, smaller(n + images, p.batch), x, dz, dkernel);
  }
}

}  // namespace

void kernel_gradient(const conv2d::Problem& p, const float* x, const conv2d::OutputGradient& g,
                     const conv2d::KernelGradients& out) {
  const std::int64_t rows = p.batch * p.height.output * p.width.output;
  const std::int64_t weights = p.taps() * (p.channels / p.groups) * p.filters;
  if (rows == 0) {
    const auto clear = [](float* to, std::int64_t count) {
      if (to != nullptr) fill_bytes(to, 0, static_cast<std::size_t>(count) * sizeof(float));
    };
    clear(out.dkernel, weights);
    return clear(out.dbias, p.filters);
  }
  const bool linear = g.activation.kind == Kind::linear;
  const Scratch<float> scratch(op, linear || out.dz != nullptr ? 0 : rows * p.filters);
  float* const dz = out.dz != nullptr ? out.dz : scratch.get();
  if (!linear || out.dz != nullptr) {
    output_gradient(g, rows, p.filters, dz, out.dbias);
  } else if (out.dbias != nullptr) {
    bias_gradient(op, g.dy, rows, p.filters, out.dbias);
  }
  product_over_pixels(p, x, dz != nullptr ? dz : g.dy, out.dkernel);
}

}  // namespace lamella::LAMELLA_ISA
