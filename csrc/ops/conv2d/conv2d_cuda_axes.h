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
  const auto fits_tile = [](std::int64_t read_h, std::int64_t read_w, std::int64_t channels,
                            std::int64_t results) {
    constexpr std::int64_t tile_rows = 256;
    // A tile's first row may lie anywhere in its first image; padding adds to what is read.
    const double images = static_cast<double>(tile_rows) / static_cast<double>(results) + 2;
    return images * static_cast<double>(read_h) * static_cast<double>(read_w) *
               static_cast<double>(channels) <
           static_cast<double>(4 * most);
  };
  const auto padded = [](const WindowAxis& a) { return a.input + 2 * (a.pad_before + a.extent()); };
  const auto reached = [](const WindowAxis& a) {
    return a.output + 2 * (a.extent() + a.pad_before);
  };
  const std::int64_t y_results = p.height.output * p.width.output;
  const std::int64_t phase_results =
      ceil_div(p.height.input, p.height.stride) * ceil_div(p.width.input, p.width.stride);
  return fits_tile(padded(p.height), padded(p.width), p.channels, y_results) &&
         fits_tile(reached(p.height), reached(p.width), p.filters, phase_results) &&
         y_results < most && PackedPlaces(forward_axes(p)).fit &&
         p.taps() * std::max(p.channels, p.filters) < 2 * most;
}

}  // namespace lamella::device
