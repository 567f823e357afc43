// Where windows lie: the padding and window options of convolutions and pools, checked and turned
// into numbers. Used by *_bind.cpp files; kernels include window_axis.h.
#pragma once

#include <array>

#include "core/arguments.h"
#include "core/window_axis.h"

namespace lamella {

struct Padding {
  enum class Kind { valid, same, explicit_sizes };
  Kind kind = Kind::valid;
  // {{top, bottom}, {left, right}}, none negative; zeros unless explicit.
  std::array<std::array<std::int64_t, 2>, 2> sizes{};
};

// "valid", "same", p, (ph, pw) or ((top, bottom), (left, right)); else ValueError.
Padding parse_padding(const char* op, py::handle object);

// One axis, the `index`-th of the padding; `axis` names it in messages ("height").
//   valid      windows that lie inside the input
//   same       ceil(input / stride) windows, an odd total of padding has its extra at the end
//              (as TensorFlow pads)
//   ceil_mode  one more window may hang over the end as long as it starts inside the input or the
//              padding before it (as PyTorch counts)
// ValueError where the input is empty, kernel, stride or dilation is below 1, the window is larger
// than the padded input, or sizes overflow 63 bits.
WindowAxis window_axis(const char* op, const char* axis, std::int64_t input, std::int64_t kernel,
                       std::int64_t stride, std::int64_t dilation, const Padding& padding,
                       int index, bool ceil_mode = false);

// Both axes of an image, height first.
std::array<WindowAxis, 2> window_axes(const char* op, std::array<std::int64_t, 2> input,
                                      std::array<std::int64_t, 2> kernel,
                                      std::array<std::int64_t, 2> stride,
                                      std::array<std::int64_t, 2> dilation, py::handle padding,
                                      bool ceil_mode = false);

}  // namespace lamella
