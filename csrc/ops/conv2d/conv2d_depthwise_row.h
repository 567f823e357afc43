// Depthwise kernels for outputs along one row, vectorised over channels. Where the taps are
// neighbours every vector of x is loaded once for each row of taps, and serves all the outputs of a
// tile that it reaches; positions outside the image are left out.
#pragma once

#include "simd/fma_into.h"
#include "simd/read_ahead.h"

namespace lamella::LAMELLA_ISA {

// Lanes [c, c + width) of the channels: all of them, or the last few.
template <bool whole>
struct Lanes {
  std::int64_t n;
  LAMELLA_INLINE Float get(const float* p) const {
    if constexpr (whole) return load(p);
    return load_n(p, n);
  }
  LAMELLA_INLINE void put(float* p, Float v) const {
    if constexpr (whole) return store(p, v);
    store_n(p, v, n);
  }
};

// body(lanes, c) for the vectors of `channels`.
template <class Body>
LAMELLA_INLINE void for_lanes(std::int64_t channels, const Body& body) {
  std::int64_t c = 0;
  for (; c + Float::width <= channels; c += Float::width) body(Lanes<true>{0}, c);
  if (c < channels) body(Lanes<false>{channels - c}, c);
}

// A number of outputs as a type, for generic lambdas.
template <int outputs>
struct Outputs {
  static constexpr int count = outputs;
};

// body(Outputs<n>{}) for tiles that make up `outputs`. Images are often multiples of 7 wide.
template <class Body>
LAMELLA_INLINE void for_output_tiles(std::int64_t outputs, const Body& body) {
  if constexpr (Float::registers == 32) {
    for (; outputs >= 14 && outputs != 16; outputs -= 14) body(Outputs<14>{});
  }
  for (; outputs >= 8; outputs -= 8) body(Outputs<8>{});
  if (outputs == 7) return body(Outputs<7>{});
  for (; outputs >= 4; outputs -= 4) body(Outputs<4>{});
  if (outputs >= 2) body(Outputs<2>{});
  if (outputs % 2 == 1) body(Outputs<1>{});
}

template <int pixels>
LAMELLA_INLINE void prefetch_pixels(const float* x, std::int64_t step) {
#pragma GCC unroll 16
  for (int j = 0; j < pixels; ++j) prefetch_to_l2(x + j * step);
}

// Positions of a tile's row that lie inside the image.
struct Inside {
  std::int64_t begin, end;
};

// The taps that a run of outputs meets: `rows` rows of `count` taps. x and kernel point at the
// first tap of the first output and of the kernel.
struct DepthwiseTaps {
  const float* x;
  std::int64_t x_row, x_tap, x_output;  // from one row of taps, tap, output to the next
  std::int64_t rows, count;
  const float* kernel;
  std::int64_t kernel_row, kernel_tap;
  const float* bias;   // null: none
  std::int64_t ahead;  // from x to the row of x to prefetch, or 0
  bool stream;         // y is written past the caches; the channels are whole vectors
};

// y[j * y_step + c] for `outputs` outputs j, with any taps.
template <int outputs, class L>
LAMELLA_INLINE void depthwise_outputs(const DepthwiseTaps& t, const L& lanes, std::int64_t c,
                                      float* y, std::int64_t y_step) {
  Float acc[outputs];
  const Float first = t.bias == nullptr ? zero() : lanes.get(t.bias + c);
#pragma GCC unroll 16
  for (int j = 0; j < outputs; ++j) acc[j] = first;
  for (std::int64_t p = 0; p < t.rows; ++p) {
    for (std::int64_t q = 0; q < t.count; ++q) {
      const Float w = lanes.get(t.kernel + p * t.kernel_row + q * t.kernel_tap + c);
      const float* x = t.x + p * t.x_row + q * t.x_tap + c;
#pragma GCC unroll 16
      for (int j = 0; j < outputs; ++j) fma_into(acc[j], lanes.get(x + j * t.x_output), w);
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < outputs; ++j) lanes.put(y + j * y_step + c, acc[j]);
}

// The same for `taps` neighbouring taps a row and outputs `stride` positions apart. `guarded`: some
// positions may be outside.
template <int taps, int stride, int outputs, bool guarded, class L>
LAMELLA_INLINE void depthwise_neighbours(const DepthwiseTaps& t, const Inside& inside,
                                         const L& lanes, std::int64_t c, float* y,
                                         std::int64_t y_step) {
  Float acc[outputs];
  const Float first = t.bias == nullptr ? zero() : lanes.get(t.bias + c);
#pragma GCC unroll 16
  for (int j = 0; j < outputs; ++j) acc[j] = first;
  for (std::int64_t p = 0; p < t.rows; ++p) {
    Float w[taps];
#pragma GCC unroll 8
    for (int q = 0; q < taps; ++q) {
      w[q] = lanes.get(t.kernel + p * t.kernel_row + q * t.kernel_tap + c);
    }
    const float* x = t.x + p * t.x_row + c;
#pragma GCC unroll 32
    for (int i = 0; i < (outputs - 1) * stride + taps; ++i, x += t.x_tap) {
      if (guarded && (i < inside.begin || i >= inside.end)) continue;
      const Float v = lanes.get(x);
#pragma GCC unroll 8
      for (int q = 0; q < taps; ++q) {
        const int j = (i - q) / stride;
        if (i >= q && (i - q) % stride == 0 && j < outputs) fma_into(acc[j], v, w[q]);
      }
    }
  }
  if (t.stream) {
#pragma GCC unroll 16
    for (int j = 0; j < outputs; ++j) stream(y + j * y_step + c, acc[j]);
    return;
  }
#pragma GCC unroll 16
  for (int j = 0; j < outputs; ++j) lanes.put(y + j * y_step + c, acc[j]);
}

// y[j * y_step + c] for a run of outputs that meet the same taps, and all channels.
inline void depthwise_run(DepthwiseTaps t, std::int64_t channels, std::int64_t outputs, float* y,
                          std::int64_t y_step) {
  for_output_tiles(outputs, [&](auto size) {
    constexpr int count = decltype(size)::count;
    for_lanes(channels, [&](const auto& lanes, std::int64_t c) {
      depthwise_outputs<count>(t, lanes, c, y, y_step);
    });
    t.x += count * t.x_output;
    y += count * y_step;
  });
}

// The same for a row of outputs and neighbouring taps. t.x is where the first output's first tap
// would be, at `inside.begin` positions before the image.
template <int taps, int stride>
inline void depthwise_row(DepthwiseTaps t, Inside inside, std::int64_t channels,
                          std::int64_t outputs, float* y, std::int64_t y_step) {
  for_output_tiles(outputs, [&](auto size) {
    constexpr int count = decltype(size)::count;
    constexpr int positions = (count - 1) * stride + taps;
    const bool guarded = inside.begin > 0 || inside.end < positions;
    for_lanes(channels, [&](const auto& lanes, std::int64_t c) {
      if (t.ahead != 0) prefetch_pixels<count>(t.x + t.ahead + c, t.x_output);
      if (guarded) {
        depthwise_neighbours<taps, stride, count, true>(t, inside, lanes, c, y, y_step);
      } else {
        depthwise_neighbours<taps, stride, count, false>(t, inside, lanes, c, y, y_step);
      }
    });
    t.x += count * t.x_output;
    y += count * y_step;
    inside.begin -= count * stride;
    inside.end -= count * stride;
  });
}

using DepthwiseRow = void (*)(DepthwiseTaps, Inside, std::int64_t, std::int64_t, float*,
                              std::int64_t);

// Null where there is no kernel for neighbouring taps.
LAMELLA_INLINE DepthwiseRow depthwise_row_kernel(std::int64_t taps, std::int64_t stride) {
  if (taps == 3 && stride == 1) return depthwise_row<3, 1>;
  if (taps == 3 && stride == 2) return depthwise_row<3, 2>;
  if (taps == 5 && stride == 1) return depthwise_row<5, 1>;
  return nullptr;
}

// The gradient of the taps that a run of outputs meets: sum[p][q][c] += sum over outputs j of
// x(j, p, q)[c] * dz[j][c]. x and sum point at the first tap.
struct DepthwiseGradient {
  const float* x;
  std::int64_t x_row, x_tap, x_output;
  std::int64_t rows, count;
  const float* dz;
  std::int64_t dz_output;
  std::int64_t outputs;
  float* sum;
  std::int64_t sum_row, sum_tap;
  std::int64_t x_ahead, dz_ahead;  // from x and dz to the rows to prefetch, or 0
};

// One tap.
template <class L>
LAMELLA_INLINE void depthwise_gradient_tap(const DepthwiseGradient& t, const L& lanes,
                                           std::int64_t p, std::int64_t q, std::int64_t c) {
  const float* x = t.x + p * t.x_row + q * t.x_tap + c;
  float* const to = t.sum + p * t.sum_row + q * t.sum_tap + c;
  Float sum = lanes.get(to);
  for (std::int64_t j = 0; j < t.outputs; ++j) {
    sum = fma(lanes.get(x + j * t.x_output), lanes.get(t.dz + j * t.dz_output + c), sum);
  }
  lanes.put(to, sum);
}

// `rows` rows, from row p, of `taps` neighbouring taps; outputs `stride` positions apart.
template <int rows, int taps, int stride, class L>
LAMELLA_INLINE void depthwise_gradient_rows(const DepthwiseGradient& t, Inside inside,
                                            const L& lanes, std::int64_t p, std::int64_t c) {
  Float acc[rows][taps];
  float* const sum = t.sum + p * t.sum_row + c;
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int q = 0; q < taps; ++q) acc[r][q] = lanes.get(sum + r * t.sum_row + q * t.sum_tap);
  }
  const float* x = t.x + p * t.x_row + c;
  const float* dz = t.dz + c;
  // Inlined, or the sums would go through memory.
  const auto tile = [&](auto size, auto guard) __attribute__((always_inline)) {
    constexpr int outputs = decltype(size)::count;
    constexpr bool guarded = decltype(guard)::count != 0;
    Float g[outputs];
#pragma GCC unroll 16
    for (int j = 0; j < outputs; ++j) g[j] = lanes.get(dz + j * t.dz_output);
#pragma GCC unroll 32
    for (int i = 0; i < (outputs - 1) * stride + taps; ++i) {
      if (guarded && (i < inside.begin || i >= inside.end)) continue;
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        const Float v = lanes.get(x + r * t.x_row + i * t.x_tap);
#pragma GCC unroll 8
        for (int q = 0; q < taps; ++q) {
          const int j = (i - q) / stride;
          if (i >= q && (i - q) % stride == 0 && j < outputs) {
            fma_into(acc[r][q], v, g[j]);
          }
        }
      }
    }
  };
  for_output_tiles(t.outputs, [&](auto size) __attribute__((always_inline)) {
    constexpr int outputs = decltype(size)::count;
    if (t.x_ahead != 0) {
      prefetch_pixels<outputs>(x + t.x_ahead, t.x_output);
      prefetch_pixels<outputs>(dz + t.dz_ahead, t.dz_output);
    }
    if (inside.begin > 0 || inside.end < (outputs - 1) * stride + taps) {
      tile(size, Outputs<1>{});
    } else {
      tile(size, Outputs<0>{});
    }
    x += outputs * t.x_output;
    dz += outputs * t.dz_output;
    inside.begin -= outputs * stride;
    inside.end -= outputs * stride;
  });
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int q = 0; q < taps; ++q) lanes.put(sum + r * t.sum_row + q * t.sum_tap, acc[r][q]);
  }
}

// A run of outputs that meet the same taps.
inline void depthwise_gradient_run(const DepthwiseGradient& t, std::int64_t channels) {
  for_lanes(channels, [&](const auto& lanes, std::int64_t c) {
    for (std::int64_t p = 0; p < t.rows; ++p) {
      for (std::int64_t q = 0; q < t.count; ++q) depthwise_gradient_tap(t, lanes, p, q, c);
    }
  });
}

// A row of outputs and neighbouring taps; t.x is where the first output's first tap would be, at
// `inside.begin` positions before the image.
template <int taps, int stride>
inline void depthwise_gradient_row(const DepthwiseGradient& t, const Inside& inside,
                                   std::int64_t channels) {
  for_lanes(channels, [&](const auto& lanes, std::int64_t c) {
    std::int64_t p = 0;
    if constexpr (taps == 3) {
      for (; p + 3 <= t.rows; p += 3) {
        depthwise_gradient_rows<3, taps, stride>(t, inside, lanes, p, c);
      }
    }
    for (; p + 2 <= t.rows; p += 2) {
      depthwise_gradient_rows<2, taps, stride>(t, inside, lanes, p, c);
    }
    if (p < t.rows) depthwise_gradient_rows<1, taps, stride>(t, inside, lanes, p, c);
  });
}

using DepthwiseGradientRow = void (*)(const DepthwiseGradient&, const Inside&, std::int64_t);

// Null where there is no kernel for neighbouring taps.
LAMELLA_INLINE DepthwiseGradientRow depthwise_gradient_row_kernel(std::int64_t taps,
                                                                  std::int64_t stride) {
  if (taps == 3 && stride == 1) return depthwise_gradient_row<3, 1>;
  if (taps == 3 && stride == 2) return depthwise_gradient_row<3, 2>;
  if (taps == 5 && stride == 1) return depthwise_gradient_row<5, 1>;
  return nullptr;
}

}  // namespace lamella::LAMELLA_ISA
