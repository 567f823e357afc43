// Depthwise convolution and its gradients: which kernel, and how it lies over the device.
#include "cuda/kernel.cuh"
#include "cuda/sum_axis.cuh"
#include "ops/conv2d/conv2d_cuda_depthwise.cuh"
#include "ops/conv2d/conv2d_cuda_parts.h"

namespace lamella::LAMELLA_ISA {
namespace {

constexpr const char* op = "conv2d";

Depthwise depthwise(const WindowAxis& height, const WindowAxis& width, const conv2d::Problem& p,
                    bool turned) {
  return {Axis(height), Axis(width), p.channels, p.filters, Divisor(p.filters / p.channels),
          turned};
}

template <int V, bool one_filter>
void run_forward(const Depthwise& p, std::int64_t batch, const float* x, const float* kernel,
                 const conv2d::Output& y) {
  const WindowAxis& width = p.width.window;
  const RowGrid grid(batch, p.height.window.output,
                     ceil_div<std::int64_t>(width.output, depthwise_outputs), p.filters / V);
  const auto run = [&](auto function) {
    launch(op, grid.launch(), function, p, grid, x, kernel, y);
  };
  if (width.dilation == 1 && width.stride == 1) {
    if (width.kernel == 3) return run(depthwise_forward<V, 3, 1, one_filter>);
    if (width.kernel == 5) return run(depthwise_forward<V, 5, 1, one_filter>);
  }
  if (width.dilation == 1 && width.stride == 2) {
    if (width.kernel == 3) return run(depthwise_forward<V, 3, 2, one_filter>);
    if (width.kernel == 5) return run(depthwise_forward<V, 5, 2, one_filter>);
  }
  run(depthwise_forward<V, 0, 0, one_filter>);
}

void forward(const Depthwise& p, std::int64_t batch, const float* x, const float* kernel,
             const conv2d::Output& y) {
  const bool one_filter = p.channels == p.filters;
  if (p.filters % 4 == 0 && aligned_for_vectors(x, kernel, y.pre_activation, y.data)) {
    return one_filter ? run_forward<4, true>(p, batch, x, kernel, y)
                      : run_forward<4, false>(p, batch, x, kernel, y);
  }
  run_forward<1, false>(p, batch, x, kernel, y);
}

// As the convolution of dz with the turned kernel, where each position has all taps.
WindowAxis turned_axis(const WindowAxis& a) {
  const std::int64_t pad = a.extent() - 1 - a.pad_before;
  return {a.output, a.kernel, 1, a.dilation, pad, a.pad_after, a.input};
}

// `taps` is depthwise_taps<...>, of V filters and R x C taps.
template <class Kernel>
void run_taps(const conv2d::Problem& p, int V, int R, int C, Kernel taps, const float* x,
              const float* dz, float* dkernel) {
  const Depthwise problem = depthwise(p.height, p.width, p, false);
  TapGrid grid{};
  grid.pixels = p.batch * p.height.output * p.width.output;
  grid.image_pixels = Divisor(p.height.output * p.width.output);
  grid.row_pixels = Divisor(p.width.output);
  grid.lanes = 1;
  while (grid.lanes < warp_size && grid.lanes < p.filters / V) grid.lanes *= 2;
  grid.channel_blocks = ceil_div<std::int64_t>(p.filters / V, grid.lanes);
  const std::int64_t groups =
      ceil_div<std::int64_t>(p.height.kernel, R) * ceil_div<std::int64_t>(p.width.kernel, C);
  // Enough blocks to fill the device, each with at least 16 pixels a thread.
  const std::int64_t slices = TapGrid::threads / grid.lanes;
  const std::int64_t wanted = ceil_div<std::int64_t>(std::int64_t{properties().multiprocessors} * 4,
                                                     grid.channel_blocks * groups);
  const std::int64_t most = larger<std::int64_t>(grid.pixels / (slices * 16), 1);
  grid.chunk = ceil_div(grid.pixels, smaller(wanted, most));
  grid.chunks = ceil_div(grid.pixels, grid.chunk);
  const std::int64_t size = p.taps() * p.filters;
  const Scratch<float> partial(op, grid.chunks > 1 ? grid.chunks * size : 0);
  float* const sums = grid.chunks > 1 ? partial.get() : dkernel;
  const dim3 blocks(static_cast<unsigned>(grid.channel_blocks * grid.chunks),
                    static_cast<unsigned>(smaller<std::int64_t>(groups, 65535)));
  launch(op, {blocks, dim3(TapGrid::threads)}, taps, problem, grid, x, dz, sums);
  if (grid.chunks > 1) sum_axis(op, 1, grid.chunks, size, sums, dkernel);
}

template <int V, bool one_filter>
void choose_taps(const conv2d::Problem& p, const float* x, const float* dz, float* dkernel) {
  if (p.height.kernel == 3 && p.width.kernel == 3) {
    return run_taps(p, V, 3, 3, depthwise_taps<V, 3, 3, one_filter>, x, dz, dkernel);
  }
  run_taps(p, V, 1, 5, depthwise_taps<V, 1, 5, one_filter>, x, dz, dkernel);
}

}  // namespace

void depthwise_correlate(const conv2d::Problem& p, const float* x, const float* kernel,
                         const conv2d::Output& y) {
  forward(depthwise(p.height, p.width, p, false), p.batch, x, kernel, y);
}

void depthwise_input_gradient(const conv2d::Problem& p, const float* dz, const float* kernel,
                              const conv2d::Output& dx) {
  const bool one_filter = p.channels == p.filters;
  if (one_filter && p.height.stride == 1 && p.width.stride == 1) {
    const Depthwise turned = depthwise(turned_axis(p.height), turned_axis(p.width), p, true);
    return forward(turned, p.batch, dz, kernel, dx);
  }
  const Depthwise problem = depthwise(p.height, p.width, p, false);
  const auto run = [&](int V, auto function) {
    const RowGrid grid(p.batch, p.height.input, p.width.input, p.channels / V);
    launch(op, grid.launch(), function, problem, grid, dz, kernel, dx);
  };
  if (!one_filter) return run(1, depthwise_gather<1, false>);
  if (p.channels % 4 == 0 && aligned_for_vectors(dz, kernel, dx.pre_activation, dx.data)) {
    return run(4, depthwise_gather<4, true>);
  }
  run(1, depthwise_gather<1, true>);
}

void depthwise_kernel_gradient(const conv2d::Problem& p, const float* x, const float* dz,
                               float* dkernel) {
  if (p.filters % 4 != 0 || !aligned_for_vectors(x, dz, dkernel)) {
    return choose_taps<1, false>(p, x, dz, dkernel);
  }
  if (p.channels == p.filters) return choose_taps<4, true>(p, x, dz, dkernel);
  choose_taps<4, false>(p, x, dz, dkernel);
}

}  // namespace lamella::LAMELLA_ISA
