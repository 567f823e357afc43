// One element of a convolution's result, or of its gradients, summed by one thread over the taps
// that lie inside: exact where the matrix products are not, and for any sizes.
//
// The products give taps outside the image the value 0, and 0 times an infinite or NaN weight is
// NaN. Such results are known by being NaN, and are summed again here (conv2d_cuda_finish.cuh).
#pragma once

#include "cuda/window.cuh"
#include "ops/conv2d/conv2d.h"

namespace lamella::device {

struct DirectProblem {
  Axis height, width;
  std::int64_t batch, channels, filters, groups;

  explicit DirectProblem(const conv2d::Problem& p)
      : height(p.height),
        width(p.width),
        batch(p.batch),
        channels(p.channels),
        filters(p.filters),
        groups(p.groups) {}

  __device__ std::int64_t group_channels() const { return channels / groups; }
  __device__ std::int64_t group_filters() const { return filters / groups; }
};

// The convolution before its bias, and the shape of its result.
struct DirectForward {
  DirectProblem p;
  const float* x;
  const float* kernel;

  __host__ __device__ std::int64_t rows() const { return p.height.window.output; }
  __host__ __device__ std::int64_t columns() const { return p.width.window.output; }
  __host__ __device__ std::int64_t channels() const { return p.filters; }

  __device__ float sum(std::int64_t n, std::int64_t oh, std::int64_t ow, std::int64_t f) const {
    const std::int64_t depth = p.group_channels();
    const Interval taps_h = p.height.taps_inside(oh);
    const Interval taps_w = p.width.taps_inside(ow);
    float total = 0.0f;
    for (std::int64_t i = taps_h.begin; i < taps_h.end; ++i) {
      const std::int64_t h = p.height.start(oh) + i * p.height.window.dilation;
      for (std::int64_t j = taps_w.begin; j < taps_w.end; ++j) {
        const std::int64_t w = p.width.start(ow) + j * p.width.window.dilation;
        const float* const from =
            x + ((n * p.height.window.input + h) * p.width.window.input + w) * p.channels +
            f / p.group_filters() * depth;
        const float* const weights =
            kernel + (i * p.width.window.kernel + j) * depth * p.filters + f;
        for (std::int64_t c = 0; c < depth; ++c) {
          total = fmaf(from[c], weights[c * p.filters], total);
        }
      }
    }
    return total;
  }
};

// The input gradient.
struct DirectInput {
  DirectProblem p;
  const float* dz;
  const float* kernel;

  __host__ __device__ std::int64_t rows() const { return p.height.window.input; }
  __host__ __device__ std::int64_t columns() const { return p.width.window.input; }
  __host__ __device__ std::int64_t channels() const { return p.channels; }

  __device__ float sum(std::int64_t n, std::int64_t h, std::int64_t w, std::int64_t c) const {
    const std::int64_t group = c / p.group_channels();
    const std::int64_t depth = p.group_filters();
    const Cover covers_h = p.height.cover(h);
    const Cover covers_w = p.width.cover(w);
    float total = 0.0f;
    for (std::int64_t i = 0; i < covers_h.count; ++i) {
      const std::int64_t oh = covers_h.output + i * p.height.output_step;
      const std::int64_t tap_h = covers_h.tap - i * p.height.tap_step;
      for (std::int64_t j = 0; j < covers_w.count; ++j) {
        const std::int64_t ow = covers_w.output + j * p.width.output_step;
        const std::int64_t tap =
            tap_h * p.width.window.kernel + covers_w.tap - j * p.width.tap_step;
        const float* const from =
            dz + ((n * p.height.window.output + oh) * p.width.window.output + ow) * p.filters +
            group * depth;
        const float* const weights =
            kernel + (tap * p.group_channels() + c - group * p.group_channels()) * p.filters +
            group * depth;
        for (std::int64_t f = 0; f < depth; ++f) total = fmaf(from[f], weights[f], total);
      }
    }
    return total;
  }
};

// The kernel gradient of one weight.
struct DirectKernel {
  DirectProblem p;
  const float* x;
  const float* dz;

  __device__ float sum(std::int64_t tap_h, std::int64_t tap_w, std::int64_t c,
                       std::int64_t f) const {
    const std::int64_t channel = f / p.group_filters() * p.group_channels() + c;
    float total = 0.0f;
    for (std::int64_t n = 0; n < p.batch; ++n) {
      for (std::int64_t oh = 0; oh < p.height.window.output; ++oh) {
        const Interval taps_h = p.height.taps_inside(oh);
        if (tap_h < taps_h.begin || tap_h >= taps_h.end) continue;
        const std::int64_t h = p.height.start(oh) + tap_h * p.height.window.dilation;
        for (std::int64_t ow = 0; ow < p.width.window.output; ++ow) {
          const Interval taps_w = p.width.taps_inside(ow);
          if (tap_w < taps_w.begin || tap_w >= taps_w.end) continue;
          const std::int64_t w = p.width.start(ow) + tap_w * p.width.window.dilation;
          const std::int64_t from =
              ((n * p.height.window.input + h) * p.width.window.input + w) * p.channels + channel;
          const std::int64_t to =
              ((n * p.height.window.output + oh) * p.width.window.output + ow) * p.filters + f;
          total = fmaf(x[from], dz[to], total);
        }
      }
    }
    return total;
  }
};

}  // namespace lamella::device
