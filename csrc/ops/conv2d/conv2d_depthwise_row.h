// Depthwise kernels for outputs along one row, vectorised over channels. Every vector of x is
// loaded once for each row of taps, and serves all the outputs of a tile that it reaches.
#pragma once

#include "simd/fma_into.h"

namespace lamella::LAMELLA_ISA {

// Outputs that share each load of the kernel.
constexpr int depthwise_tile = Float::registers == 32 ? 12 : 8;

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

// The taps that a run of outputs meets: `rows` rows of `count` taps. x and kernel point at the
// first tap of the first output and of the kernel.
struct DepthwiseTaps {
  const float* x;
  std::int64_t x_row, x_tap, x_output;  // from one row of taps, tap, output to the next
  std::int64_t rows, count;
  const float* kernel;
  std::int64_t kernel_row, kernel_tap;
  const float* bias;  // null: none
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

// The same for `taps` neighbouring taps a row and outputs `stride` positions apart.
template <int taps, int stride, int outputs, class L>
LAMELLA_INLINE void depthwise_neighbours(const DepthwiseTaps& t, const L& lanes, std::int64_t c,
                                         float* y, std::int64_t y_step) {
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
      const Float v = lanes.get(x);
#pragma GCC unroll 8
      for (int q = 0; q < taps; ++q) {
        const int j = (i - q) / stride;
        if (i >= q && (i - q) % stride == 0 && j < outputs) fma_into(acc[j], v, w[q]);
      }
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < outputs; ++j) lanes.put(y + j * y_step + c, acc[j]);
}

template <int outputs>
LAMELLA_INLINE void depthwise_tile_of(const DepthwiseTaps& t, std::int64_t channels, float* y,
                                      std::int64_t y_step) {
  const bool near = t.x_output == t.x_tap;
  const bool second = t.x_output == 2 * t.x_tap;
  for_lanes(channels, [&](const auto& lanes, std::int64_t c) {
    if constexpr (outputs > 1) {
      if (near && t.count == 3) {
        return depthwise_neighbours<3, 1, outputs>(t, lanes, c, y, y_step);
      }
      if (near && t.count == 5) {
        return depthwise_neighbours<5, 1, outputs>(t, lanes, c, y, y_step);
      }
      if (second && t.count == 3) {
        return depthwise_neighbours<3, 2, outputs>(t, lanes, c, y, y_step);
      }
    }
    depthwise_outputs<outputs>(t, lanes, c, y, y_step);
  });
}

// y[j * y_step + c] for a run of outputs and all channels.
inline void depthwise_run(DepthwiseTaps t, std::int64_t channels, std::int64_t outputs, float* y,
                          std::int64_t y_step) {
  const auto tiles = [&](auto size) {
    constexpr int count = decltype(size)::count;
    for (; outputs >= count; outputs -= count) {
      depthwise_tile_of<count>(t, channels, y, y_step);
      t.x += count * t.x_output;
      y += count * y_step;
    }
  };
  tiles(Outputs<depthwise_tile>{});
  tiles(Outputs<4>{});
  tiles(Outputs<1>{});
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
LAMELLA_INLINE void depthwise_gradient_neighbours(const DepthwiseGradient& t, const L& lanes,
                                                  std::int64_t p, std::int64_t c) {
  Float acc[rows][taps];
  float* const sum = t.sum + p * t.sum_row + c;
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int q = 0; q < taps; ++q) acc[r][q] = lanes.get(sum + r * t.sum_row + q * t.sum_tap);
  }
  const float* x = t.x + p * t.x_row + c;
  const float* dz = t.dz + c;
  const auto tile = [&](auto size) {
    constexpr int outputs = decltype(size)::count;
    Float g[outputs];
#pragma GCC unroll 8
    for (int j = 0; j < outputs; ++j) g[j] = lanes.get(dz + j * t.dz_output);
#pragma GCC unroll 32
    for (int i = 0; i < (outputs - 1) * stride + taps; ++i) {
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
    x += outputs * t.x_output;
    dz += outputs * t.dz_output;
  };
  constexpr int outputs = Float::registers == 32 ? 8 : 4;
  std::int64_t j = 0;
  for (; j + outputs <= t.outputs; j += outputs) tile(Outputs<outputs>{});
  for (; j + 2 <= t.outputs; j += 2) tile(Outputs<2>{});
  if (j < t.outputs) tile(Outputs<1>{});
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int q = 0; q < taps; ++q) lanes.put(sum + r * t.sum_row + q * t.sum_tap, acc[r][q]);
  }
}

inline void depthwise_gradient_run(const DepthwiseGradient& t, std::int64_t channels) {
  const bool near = t.x_output == t.x_tap;
  const bool second = t.x_output == 2 * t.x_tap;
  for_lanes(channels, [&](const auto& lanes, std::int64_t c) {
    std::int64_t p = 0;
    if (near && t.count == 3) {
      for (; p + 3 <= t.rows; p += 3) depthwise_gradient_neighbours<3, 3, 1>(t, lanes, p, c);
      for (; p < t.rows; ++p) depthwise_gradient_neighbours<1, 3, 1>(t, lanes, p, c);
    } else if (second && t.count == 3) {
      for (; p + 3 <= t.rows; p += 3) depthwise_gradient_neighbours<3, 3, 2>(t, lanes, p, c);
      for (; p < t.rows; ++p) depthwise_gradient_neighbours<1, 3, 2>(t, lanes, p, c);
    } else if (near && t.count == 5) {
      for (; p < t.rows; ++p) depthwise_gradient_neighbours<1, 5, 1>(t, lanes, p, c);
    }
    for (; p < t.rows; ++p) {
      for (std::int64_t q = 0; q < t.count; ++q) depthwise_gradient_tap(t, lanes, p, q, c);
    }
  });
}

}  // namespace lamella::LAMELLA_ISA
