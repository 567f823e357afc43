// Depthwise convolution, vectorised over channels. With m filters a channel the image is repeated m
// times along its channels first (a copy), and is then the case m = 1.
#include "core/memory_pool.h"
#include "ops/activation/activation_simd.h"
#include "ops/conv2d/conv2d_partial.h"
#include "ops/conv2d/conv2d_phases.h"
#include "ops/conv2d/conv2d_taps.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {
namespace {

using conv2d::Problem;

constexpr std::int64_t block_pixels = 256;
constexpr std::int64_t block_floats = 32 << 10;
// Outputs along a row that share each load of the kernel.
constexpr int tile_pixels = 6;

// One sum over taps: W(tap, c) = kernel[kernel_row[tap] + c].
struct DepthwiseSum {
  std::int64_t batch;
  TapAxis h, w;
  std::int64_t channels;
  const float* x;
  const float* kernel;
  const std::int64_t* kernel_row;
  const float* bias;
  Activation activation;
  float* y;
  float* pre_activation;
  std::int64_t y_pixel, y_row, y_image;
};

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

template <int pixels, class L>
LAMELLA_INLINE void depthwise_tile(const DepthwiseSum& s, const L& lanes, const float* x,
                                   std::int64_t x_step, const std::int64_t* tap_offset,
                                   std::int64_t taps, std::int64_t c, float* y) {
  Float acc[pixels];
  const Float first = s.bias == nullptr ? zero() : lanes.get(s.bias + c);
#pragma GCC unroll 8
  for (int j = 0; j < pixels; ++j) acc[j] = first;
  for (std::int64_t tap = 0; tap < taps; ++tap) {
    const Float w = lanes.get(s.kernel + s.kernel_row[tap] + c);
    const float* from = x + tap_offset[tap];
#pragma GCC unroll 8
    for (int j = 0; j < pixels; ++j) acc[j] = fma(lanes.get(from + j * x_step), w, acc[j]);
  }
#pragma GCC unroll 8
  for (int j = 0; j < pixels; ++j) lanes.put(y + j * s.y_pixel, acc[j]);
}

template <class L>
LAMELLA_INLINE void depthwise_row(const DepthwiseSum& s, const L& lanes, const float* x,
                                  std::int64_t x_step, const std::int64_t* tap_offset,
                                  std::int64_t taps, std::int64_t c, float* y) {
  std::int64_t j = 0;
  for (; j + tile_pixels <= s.w.output; j += tile_pixels) {
    depthwise_tile<tile_pixels>(s, lanes, x + j * x_step, x_step, tap_offset, taps, c,
                                y + j * s.y_pixel);
  }
  for (; j + 2 <= s.w.output; j += 2) {
    depthwise_tile<2>(s, lanes, x + j * x_step, x_step, tap_offset, taps, c, y + j * s.y_pixel);
  }
  for (; j < s.w.output; ++j) {
    depthwise_tile<1>(s, lanes, x + j * x_step, x_step, tap_offset, taps, c, y + j * s.y_pixel);
  }
}

void run_depthwise(const DepthwiseSum& s) {
  const std::int64_t taps = s.h.count * s.w.count;
  const Blocks cut = cut_blocks(s.batch, s.h, s.w, s.channels, block_pixels, block_floats);
  const std::int64_t window = window_floats(cut, s.h, s.w, s.channels);
  const bool serial = s.batch * s.h.output * s.w.output * s.channels * taps < (64 << 10);
  const int slots = serial ? 1 : num_threads();
  const Scratch<float> windows("conv2d", window * slots);
  const Scratch<std::int64_t> offsets("conv2d", taps * slots);
  float* const result = s.pre_activation != nullptr ? s.pre_activation : s.y;
  parallel_for_slots(cut.count, slots, [&](std::int64_t index, int slot) {
    const Block block = block_at(cut, index, s.batch, s.h.output);
    if (block.rows <= 0) return;
    const Window view =
        open_window(s.x, s.h, s.w, s.channels, block, windows.get() + slot * window);
    std::int64_t* const tap_offset = offsets.get() + slot * taps;
    for (std::int64_t tap = 0; tap < taps; ++tap) {
      tap_offset[tap] = (s.h.offset[tap / s.w.count] - s.h.first()) * view.row +
                        (s.w.offset[tap % s.w.count] - s.w.first()) * view.pixel;
    }
    const std::int64_t x_step = s.w.step * view.pixel;
    for (std::int64_t n = 0; n < block.images; ++n) {
      for (std::int64_t i = 0; i < block.rows; ++i) {
        const float* x = view.data + n * view.image + i * s.h.step * view.row;
        const std::int64_t at = (block.image + n) * s.y_image + (block.row + i) * s.y_row;
        std::int64_t c = 0;
        for (; c + Float::width <= s.channels; c += Float::width) {
          depthwise_row(s, Lanes<true>{0}, x + c, x_step, tap_offset, taps, c, result + at + c);
        }
        if (c < s.channels) {
          depthwise_row(s, Lanes<false>{s.channels - c}, x + c, x_step, tap_offset, taps, c,
                        result + at + c);
        }
        if (s.activation.kind == Kind::linear) continue;
        for (std::int64_t j = 0; j < s.w.output; ++j) {
          float* y = s.y + at + j * s.y_pixel;
          if (result != s.y) {
            std::memcpy(y, result + at + j * s.y_pixel,
                        static_cast<std::size_t>(s.channels) * sizeof(float));
          }
          activate_row(s.activation, y, s.channels);
        }
      }
    }
  });
}

// y[i, c * m + k] = x[i, c].
void repeat_channels(const float* x, std::int64_t pixels, std::int64_t channels, std::int64_t m,
                     float* y) {
  parallel_chunks(pixels, 256, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * channels; i < end * channels; ++i) {
      for (std::int64_t k = 0; k < m; ++k) y[i * m + k] = x[i];
    }
  });
}

// acc(tap, c) += sum over a row's outputs of x(tap) * dz for `count` taps.
template <int count, class L>
LAMELLA_INLINE void gradient_row(const L& lanes, const float* x, std::int64_t x_step,
                                 const std::int64_t* tap_offset, const float* dz,
                                 std::int64_t dz_step, std::int64_t outputs, float* sum,
                                 std::int64_t sum_step) {
  Float acc[count];
#pragma GCC unroll 16
  for (int t = 0; t < count; ++t) acc[t] = lanes.get(sum + t * sum_step);
  for (std::int64_t j = 0; j < outputs; ++j) {
    const Float g = lanes.get(dz + j * dz_step);
#pragma GCC unroll 16
    for (int t = 0; t < count; ++t) {
      acc[t] = fma(lanes.get(x + tap_offset[t] + j * x_step), g, acc[t]);
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < count; ++t) lanes.put(sum + t * sum_step, acc[t]);
}

template <class L>
LAMELLA_INLINE void gradient_taps(const L& lanes, const float* x, std::int64_t x_step,
                                  const std::int64_t* tap_offset, std::int64_t taps,
                                  const float* dz, std::int64_t channels, std::int64_t outputs,
                                  float* sum) {
  std::int64_t t = 0;
  for (; t + 9 <= taps; t += 9) {
    gradient_row<9>(lanes, x, x_step, tap_offset + t, dz, channels, outputs, sum + t * channels,
                    channels);
  }
  for (; t + 3 <= taps; t += 3) {
    gradient_row<3>(lanes, x, x_step, tap_offset + t, dz, channels, outputs, sum + t * channels,
                    channels);
  }
  for (; t < taps; ++t) {
    gradient_row<1>(lanes, x, x_step, tap_offset + t, dz, channels, outputs, sum + t * channels,
                    channels);
  }
}

}  // namespace

void depthwise_correlate(const Problem& p, const float* x, const float* kernel,
                         const conv2d::Output& y) {
  const std::int64_t m = p.filters / p.channels;
  const std::int64_t pixels = p.batch * p.height.input * p.width.input;
  const Scratch<float> repeated("conv2d", m > 1 ? pixels * p.filters : 0);
  if (m > 1) repeat_channels(x, pixels, p.channels, m, repeated.get());
  const Scratch<std::int64_t> offsets("conv2d", p.height.kernel + p.width.kernel + p.taps());
  std::int64_t* const kernel_row = offsets.get() + p.height.kernel + p.width.kernel;
  for (std::int64_t t = 0; t < p.taps(); ++t) kernel_row[t] = t * p.filters;
  run_depthwise({p.batch, forward_axis(p.height, offsets.get()),
                 forward_axis(p.width, offsets.get() + p.height.kernel), p.filters,
                 m > 1 ? repeated.get() : x, kernel, kernel_row, y.bias, y.activation, y.data,
                 y.pre_activation, p.filters, p.width.output * p.filters,
                 p.height.output * p.width.output * p.filters});
}

void depthwise_input_gradient(const Problem& p, const float* dz, const float* kernel,
                              const conv2d::Output& dx) {
  const std::int64_t m = p.filters / p.channels;
  const std::int64_t pixels = p.batch * p.height.input * p.width.input;
  const Scratch<float> repeated("conv2d", m > 1 ? pixels * p.filters : 0);
  float* const target = m > 1 ? repeated.get() : dx.data;
  const Scratch<std::int64_t> offsets("conv2d", 2 * (p.height.kernel + p.width.kernel) + p.taps());
  std::int64_t* const kernel_row = offsets.get() + 2 * (p.height.kernel + p.width.kernel);
  for_each_phase(p, offsets.get(), [&](const Phase& h, const Phase& w) {
    for (std::int64_t t = 0; t < h.axis.count * w.axis.count; ++t) {
      kernel_row[t] =
          (h.tap[t / w.axis.count] * p.width.kernel + w.tap[t % w.axis.count]) * p.filters;
    }
    const std::int64_t row = p.width.input * p.filters;
    const std::int64_t first = h.residue * row + w.residue * p.filters;
    const bool direct = m == 1;
    run_depthwise({p.batch, h.axis, w.axis, p.filters, dz, kernel, kernel_row,
                   direct ? dx.bias : nullptr, direct ? dx.activation : Activation{},
                   target + first,
                   direct && dx.pre_activation != nullptr ? dx.pre_activation + first : nullptr,
                   p.width.stride * p.filters, p.height.stride * row, p.height.input * row});
  });
  if (m == 1) return;
  parallel_chunks(pixels, 256, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      float* result = (dx.pre_activation != nullptr ? dx.pre_activation : dx.data) + i * p.channels;
      for (std::int64_t c = 0; c < p.channels; ++c) {
        float sum = dx.bias == nullptr ? 0.0f : dx.bias[c];
        for (std::int64_t k = 0; k < m; ++k) sum += target[i * p.filters + c * m + k];
        result[c] = sum;
      }
      float* y = dx.data + i * p.channels;
      if (y != result) {
        std::memcpy(y, result, static_cast<std::size_t>(p.channels) * sizeof(float));
      }
      activate_row(dx.activation, y, p.channels);
    }
  });
}

void depthwise_kernel_gradient(const Problem& p, const float* x, const float* dz, float* dkernel) {
  const std::int64_t m = p.filters / p.channels;
  const std::int64_t pixels = p.batch * p.height.input * p.width.input;
  const Scratch<float> repeated("conv2d", m > 1 ? pixels * p.filters : 0);
  if (m > 1) repeat_channels(x, pixels, p.channels, m, repeated.get());
  const float* const image = m > 1 ? repeated.get() : x;
  const std::int64_t channels = p.filters;
  const std::int64_t taps = p.taps();
  const std::int64_t size = taps * channels;
  if (p.batch == 0) return zero_fill(dkernel, size);
  const Scratch<std::int64_t> axes("conv2d", p.height.kernel + p.width.kernel);
  const TapAxis h = forward_axis(p.height, axes.get());
  const TapAxis w = forward_axis(p.width, axes.get() + p.height.kernel);
  const Blocks cut = cut_blocks(p.batch, h, w, channels, block_pixels, block_floats);
  const PartialSums partial(cut.count, size, dkernel);
  const std::int64_t window = window_floats(cut, h, w, channels);
  const bool serial = p.batch * h.output * w.output * size < (64 << 10);
  const int slots = serial ? 1 : num_threads();
  const Scratch<float> windows("conv2d", window * slots);
  const Scratch<std::int64_t> offsets("conv2d", taps * slots);
  parallel_for_slots(partial.count, slots, [&](std::int64_t q, int slot) {
    float* const sum = partial.data(q);
    zero_fill(sum, size);
    std::int64_t* const tap_offset = offsets.get() + slot * taps;
    for (std::int64_t b = partial.begin(q); b < partial.begin(q + 1); ++b) {
      const Block block = block_at(cut, b, p.batch, h.output);
      if (block.rows <= 0) continue;
      const Window view = open_window(image, h, w, channels, block, windows.get() + slot * window);
      for (std::int64_t t = 0; t < taps; ++t) {
        tap_offset[t] = (h.offset[t / w.count] - h.first()) * view.row +
                        (w.offset[t % w.count] - w.first()) * view.pixel;
      }
      const std::int64_t x_step = w.step * view.pixel;
      for (std::int64_t n = 0; n < block.images; ++n) {
        for (std::int64_t i = 0; i < block.rows; ++i) {
          const float* from = view.data + n * view.image + i * h.step * view.row;
          const float* g =
              dz + ((block.image + n) * h.output + block.row + i) * w.output * channels;
          std::int64_t c = 0;
          for (; c + Float::width <= channels; c += Float::width) {
            gradient_taps(Lanes<true>{0}, from + c, x_step, tap_offset, taps, g + c, channels,
                          w.output, sum + c);
          }
          if (c < channels) {
            gradient_taps(Lanes<false>{channels - c}, from + c, x_step, tap_offset, taps, g + c,
                          channels, w.output, sum + c);
          }
        }
      }
    }
  });
  partial.reduce();
}

}  // namespace lamella::LAMELLA_ISA
