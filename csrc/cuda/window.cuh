// Sliding windows on the device: which taps of a window lie inside the image, and which windows
// hold a position of it. In 64 bits, as paddings and dilations far beyond the image are allowed.
#pragma once

#include <numeric>

#include "core/window_axis.h"
#include "cuda/divide.cuh"

namespace lamella::device {

struct Interval {
  std::int64_t begin;
  std::int64_t end;
  __device__ std::int64_t size() const { return end - begin; }
};

// The windows that hold one position: `count` of them, `output`, `output` + output_step, ...,
// through the taps `tap`, `tap` - tap_step, ...
struct Cover {
  std::int64_t output;
  std::int64_t tap;
  std::int64_t count;
};

struct Axis {
  WindowAxis window;
  Divisor stride;
  Divisor dilation;
  // output * stride + tap * dilation stays the same when the output grows by output_step and the
  // tap falls by tap_step.
  std::int64_t output_step;
  std::int64_t tap_step;
  Divisor outputs_of_step;
  // Positions from one tap to the next, where both lie inside: others are of no interest, and
  // their distance in the image may overflow.
  std::int64_t step;

  explicit Axis(const WindowAxis& axis)
      : window(axis),
        stride(axis.stride),
        dilation(axis.dilation),
        output_step(axis.dilation / std::gcd(axis.stride, axis.dilation)),
        tap_step(axis.stride / std::gcd(axis.stride, axis.dilation)),
        outputs_of_step(output_step),
        step(smaller(axis.dilation, axis.input)) {}

  // The position that the first tap of window `output` reads.
  __device__ std::int64_t start(std::int64_t output) const {
    return output * window.stride - window.pad_before;
  }

  // The taps of window `output` inside [low, high), positions of the input.
  __device__ Interval taps_between(std::int64_t output, std::int64_t low, std::int64_t high) const {
    const std::int64_t first = start(output);
    const std::int64_t begin = first >= low ? 0 : dilation.divide_up(low - first);
    const std::int64_t end =
        first >= high ? 0 : smaller(window.kernel, dilation.divide(high - 1 - first) + 1);
    return {begin, larger(begin, end)};
  }
  __device__ Interval taps_inside(std::int64_t output) const {
    return taps_between(output, 0, window.input);
  }

  // A window is found by its first output, of which there are at most output_step to try.
  __device__ Cover cover(std::int64_t position) const {
    const std::int64_t padded = position + window.pad_before;
    const std::int64_t reach = (window.kernel - 1) * window.dilation;
    std::int64_t output = padded <= reach ? 0 : stride.divide_up(padded - reach);
    const std::int64_t last = smaller(window.output - 1, stride.divide(padded));
    if (output > last) return {0, 0, 0};
    if (window.dilation == 1) {
      return {output, padded - output * window.stride, last - output + 1};
    }
    for (; output <= last; ++output) {
      const std::int64_t distance = padded - output * window.stride;
      const std::int64_t tap = dilation.divide(distance);
      if (tap * window.dilation != distance) continue;
      return {output, tap, outputs_of_step.divide(last - output) + 1};
    }
    return {0, 0, 0};
  }
};

}  // namespace lamella::device
