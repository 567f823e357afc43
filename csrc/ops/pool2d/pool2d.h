// Pooling over windows of an image, channel by channel.
//
//   max_pool2d   y[n,oh,ow,c] = max over the window's positions inside the image of x[n,h,w,c]
//   avg_pool2d   y[n,oh,ow,c] = sum over the same / count
//   window       h = oh * stride - pad_before + kh * dilation, kh in [0, kernel); w likewise
//
// The maximum is the first one in row-major order of the window, and NaN is larger than everything.
// Padding never wins. A window that dilation leaves without a position inside gives -inf, and 0 as
// an average. `count` is the number of positions inside the image or, with count_include_pad,
// inside the image and its padding; what ceil_mode lets hang over that is never counted.
//
// Backward: max gives dy to the winning position, avg gives dy / count to each one. Where windows
// overlap a position sums over its windows in row-major order of the outputs, so the result does
// not depend on how the work is cut.
//
// Forward keeps the winners for backward where it is asked to. Windows of up to 255 positions: one
// byte, kh * KW + kw, 255 for none. Larger ones: an int32, h * W + w, -1 for none.
//
//   x, dx           (batch, H, W, C)       H, W = height.input, width.input
//   y, dy           (batch, OH, OW, C)     OH, OW = height.output, width.output
//   winner          (batch, OH, OW, C * winner_bytes), read and written as bytes
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "core/window_axis.h"

namespace lamella {

struct PoolGeometry {
  std::int64_t batch;
  std::int64_t channels;
  WindowAxis height;
  WindowAxis width;
};

namespace max_pool2d {

[[gnu::always_inline]] constexpr std::int64_t winner_bytes(const PoolGeometry& g) {
  const bool small =
      g.height.kernel <= 255 && g.width.kernel <= 255 && g.height.kernel * g.width.kernel <= 255;
  return small ? 1 : 4;
}

struct Kernels {
  // winner may be null.
  void (*forward)(const PoolGeometry& g, const float* x, float* y, std::uint8_t* winner);
  void (*backward)(const PoolGeometry& g, const float* dy, const std::uint8_t* winner, float* dx);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace max_pool2d

namespace avg_pool2d {

struct Kernels {
  void (*forward)(const PoolGeometry& g, bool count_include_pad, const float* x, float* y);
  void (*backward)(const PoolGeometry& g, bool count_include_pad, const float* dy, float* dx);
  // The mean over all positions of an image: x (batch, positions, channels), y (batch, channels).
  void (*global_forward)(std::int64_t batch, std::int64_t positions, std::int64_t channels,
                         const float* x, float* y);
  void (*global_backward)(std::int64_t batch, std::int64_t positions, std::int64_t channels,
                          const float* dy, float* dx);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace avg_pool2d
}  // namespace lamella
