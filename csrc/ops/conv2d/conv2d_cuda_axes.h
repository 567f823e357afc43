// The axes of a convolution as gathers: forward, and by phases for the input gradient. Host code.
#pragma once

#include <algorithm>
#include <numeric>

#include "ops/conv2d/conv2d_cuda_operands.cuh"

namespace lamella::device {

inline GatherAxis forward_axis(const WindowAxis& a) {
  const auto small = [](std::int64_t v) { return static_cast<int>(v); };
  return {small(a.input),
          small(a.stride),
          small(-a.pad_before),
          small(a.dilation),
          small(a.kernel),
          0,
          1,
          small(a.output),
          0,
          1};
}

inline GatherAxes forward_axes(const conv2d::Problem& p) {
  return {forward_axis(p.height), forward_axis(p.width)};
}

// Input positions residue, residue + stride, ...: position residue + stride * u gets, through tap
// p, the output (residue + stride * u + pad_before - p * dilation) / stride where that is whole.
inline GatherAxis phase_axis(const WindowAxis& a, std::int64_t residue) {
  const std::int64_t common = std::gcd(a.stride, a.dilation);
  const std::int64_t tap_step = a.stride / common;
  std::int64_t tap = 0;
  while (tap < a.kernel && tap < tap_step &&
         (residue + a.pad_before - tap * a.dilation) % a.stride != 0) {
    ++tap;
  }
  const bool met = tap < a.kernel && tap < tap_step;
  const std::int64_t slots = met ? (a.kernel - 1 - tap) / tap_step + 1 : 0;
  const std::int64_t first = met ? (residue + a.pad_before - tap * a.dilation) / a.stride : 0;
  const auto small = [](std::int64_t v) { return static_cast<int>(v); };
  return {small(a.output), 1,
          small(first),    small(-(a.dilation / common)),
          small(slots),    small(tap),
          small(tap_step), small(ceil_div(a.input - residue, a.stride)),
          small(residue),  small(a.stride)};
}

// Whether a gather's positions and offsets fit 32 bits. What does not (paddings and dilations far
// beyond the image, 2^31 elements in the images of a tile) is summed one element after the other.
inline bool fits_gather(const conv2d::Problem& p) {
  constexpr std::int64_t most = std::int64_t{1} << 29;
  const auto fits = [](const WindowAxis& a) {
    return a.pad_before < most && a.input < most && a.output < most && a.extent() < most &&
           a.kernel < most && a.stride < most && a.output * a.stride < most;
  };
  if (!fits(p.height) || !fits(p.width)) return false;
  // What the rows of a tile read lies within as many images as they are part of, the rows of one
  // image, and the taps'.
  const auto fits_tile = [](const GatherAxes& axes, const conv2d::Problem& q,
                            std::int64_t channels) {
    constexpr double tile_rows = 256;
    const auto exact = [](std::int64_t value) { return static_cast<double>(value); };
    const double line = exact(axes.w.size) * exact(channels);
    const double images = tile_rows / (exact(axes.h.results) * exact(axes.w.results));
    const double rows = (tile_rows / exact(axes.w.results) + 2) * exact(axes.h.step);
    const double taps = exact(q.height.extent()) + exact(q.height.pad_before) + 1;
    const double columns = exact(q.width.extent()) + exact(q.width.pad_before);
    return images * exact(axes.h.size) * line + (rows + taps) * line + columns * exact(channels) <
               2147483647.0 &&
           PackedPlaces(axes).fit;
  };
  const GatherAxes phase = {phase_axis(p.height, 0), phase_axis(p.width, 0)};
  return fits_tile(forward_axes(p), p, p.channels) && fits_tile(phase, p, p.filters) &&
         p.height.output * p.width.output < most && p.height.input * p.width.input < 4 * most &&
         p.taps() * std::max(p.channels, p.filters) < 2 * most;
}

}  // namespace lamella::device
