// One axis of a sliding window (convolution, pooling): what window.h makes of a caller's options
// and kernels compute with. Plain data, for sources of every instruction set.
#pragma once

#include <cstdint>

namespace lamella {

// Output o reads, through tap k, the input position o * stride + k * dilation - pad_before; what
// falls outside [0, input) is padding. All but the paddings are at least 1. The last window may
// reach beyond pad_after (ceil_mode).
struct WindowAxis {
  std::int64_t input;
  std::int64_t kernel;
  std::int64_t stride;
  std::int64_t dilation;
  std::int64_t pad_before;
  std::int64_t pad_after;
  std::int64_t output;

  // Positions from a window's first tap to its last, both included.
  [[gnu::always_inline]] constexpr std::int64_t extent() const {
    return (kernel - 1) * dilation + 1;
  }
};

}  // namespace lamella
