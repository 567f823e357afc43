// The gradient of a convolution's activation, taken while the kernel gradient reads it: the same
// pass makes dz, its copy in panels, and the sums for the bias.
#pragma once

#include "ops/activation/activation_simd.h"
#include "ops/conv2d/conv2d.h"

namespace lamella::LAMELLA_ISA {

namespace detail {

template <Kind kind, int vectors>
inline void pack_output_gradient(const conv2d::OutputGradient& g, std::int64_t at,
                                 std::int64_t pixels, std::int64_t stride, std::int64_t columns,
                                 float* packed, float* dz, float* sums) {
  constexpr std::int64_t width = Float::width;
  const Float parameter = set(g.activation.parameter);
  Float total[vectors];
  for (Float& t : total) t = zero();
  const auto value = [&](std::int64_t i, std::int64_t count) {
    const Float dy = count == width ? load(g.dy + i) : load_n(g.dy + i, count);
    if constexpr (kind == Kind::linear) return dy;
    const Float saved = count == width ? load(g.saved + i) : load_n(g.saved + i, count);
    return gradient_from_saved<kind>(dy, saved, parameter);
  };
  for (std::int64_t pixel = 0; pixel < pixels; ++pixel, at += stride, packed += vectors * width) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      const std::int64_t count = max_i(0, min_i(width, columns - v * width));
      // Lanes beyond the last column are multiplied, but reach neither dz nor the result.
      const Float y = value(at + v * width, count);
      store(packed + v * width, y);
      if (dz != nullptr) {
        if (count == width) {
          store(dz + at + v * width, y);
        } else {
          store_n(dz + at + v * width, y, count);
        }
      }
      total[v] = total[v] + y;
    }
  }
  if (sums == nullptr) return;
  for (int v = 0; v < vectors; ++v) {
    const std::int64_t count = max_i(0, min_i(width, columns - v * width));
    store_n(sums + v * width, load_n(sums + v * width, count) + total[v], count);
  }
}

}  // namespace detail

// Columns [at, at + columns) of `pixels` rows of the gradient, `stride` floats apart, into
// packed[pixel][vectors * width]; into dz at the same places unless it is null; and their sums over
// pixels added to `sums` unless that is null.
inline void pack_output_gradient(const conv2d::OutputGradient& g, std::int64_t at,
                                 std::int64_t pixels, std::int64_t stride, std::int64_t columns,
                                 int vectors, float* packed, float* dz, float* sums) {
  with_kind(g.activation.kind, [&](auto tag) {
    constexpr Kind kind = decltype(tag)::kind;
    if (vectors == 1) {
      detail::pack_output_gradient<kind, 1>(g, at, pixels, stride, columns, packed, dz, sums);
    } else {
      detail::pack_output_gradient<kind, 2>(g, at, pixels, stride, columns, packed, dz, sums);
    }
  });
}

}  // namespace lamella::LAMELLA_ISA
