// The gradient of a convolution's activation, taken while the kernel gradient reads it: the same
// pass makes dz, its copy in panels, and the sums for the bias.
#pragma once

#include "ops/activation/activation_simd.h"
#include "ops/conv2d/conv2d.h"

namespace lamella::LAMELLA_ISA {

// Where the columns [at, at + columns) of `pixels` rows, `stride` floats apart, go.
struct PackedGradient {
  std::int64_t at, pixels, stride, columns;
  float* panels;              // [panel][pixel][vectors * width]
  std::int64_t panel_stride;  // floats from one panel to the next
  float* dz;                  // dz as a whole, or null
  float* sums;                // (columns) of dz over pixels are added, or null
};

namespace detail {

// With several panels a few pixels at a time, so that dy is read in the order in which it lies.
template <Kind kind, int vectors>
inline void pack_output_gradient(const conv2d::OutputGradient& g, const PackedGradient& to) {
  constexpr std::int64_t width = Float::width;
  const std::int64_t pixels_at_a_time = to.columns > vectors * width ? 4 : to.pixels;
  const Float parameter = set(g.activation.parameter);
  const auto value = [&](std::int64_t i, std::int64_t count) {
    const Float dy = count == width ? load(g.dy + i) : load_n(g.dy + i, count);
    if constexpr (kind == Kind::linear) return dy;
    const Float saved = count == width ? load(g.saved + i) : load_n(g.saved + i, count);
    return gradient_from_saved<kind>(dy, saved, parameter);
  };
  for (std::int64_t begin = 0; begin < to.pixels; begin += pixels_at_a_time) {
    const std::int64_t end = min_i(begin + pixels_at_a_time, to.pixels);
    float* panel = to.panels;
    for (std::int64_t j = 0; j < to.columns; j += vectors * width, panel += to.panel_stride) {
      Float total[vectors];
      std::int64_t count[vectors];
      for (int v = 0; v < vectors; ++v) {
        total[v] = zero();
        count[v] = max_i(0, min_i(width, to.columns - j - v * width));
      }
      for (std::int64_t pixel = begin; pixel < end; ++pixel) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) {
          const std::int64_t i = to.at + pixel * to.stride + j + v * width;
          // Lanes beyond the last column are multiplied, but reach neither dz nor the result.
          const Float y = value(i, count[v]);
          store(panel + (pixel * vectors + v) * width, y);
          if (to.dz != nullptr) {
            if (count[v] == width) {
              store(to.dz + i, y);
            } else {
              store_n(to.dz + i, y, count[v]);
            }
          }
          total[v] = total[v] + y;
        }
      }
      if (to.sums == nullptr) continue;
      for (int v = 0; v < vectors; ++v) {
        float* const sum = to.sums + j + v * width;
        store_n(sum, load_n(sum, count[v]) + total[v], count[v]);
      }
    }
  }
}

}  // namespace detail

// vectors is 1 or 2.
inline void pack_output_gradient(const conv2d::OutputGradient& g, int vectors,
                                 const PackedGradient& to) {
  with_kind(g.activation.kind, [&](auto tag) {
    constexpr Kind kind = decltype(tag)::kind;
    if (vectors == 1) {
      detail::pack_output_gradient<kind, 1>(g, to);
    } else {
      detail::pack_output_gradient<kind, 2>(g, to);
    }
  });
}

}  // namespace lamella::LAMELLA_ISA
