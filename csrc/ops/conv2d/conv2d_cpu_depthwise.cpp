// Depthwise convolution, vectorised over channels. With m filters a channel the image is repeated m
// times along its channels first (a copy), and is then the case m = 1. Outputs are computed row by
// row, in runs that meet the same taps.
#include "core/cache.h"
#include "core/memory_pool.h"
#include "ops/activation/activation_simd.h"
#include "ops/conv2d/conv2d_depthwise_row.h"
#include "ops/conv2d/conv2d_partial.h"
#include "ops/conv2d/conv2d_phases.h"
#include "ops/conv2d/conv2d_taps.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {
namespace {

using conv2d::Problem;

constexpr std::int64_t block_pixels = 512;
constexpr std::int64_t block_floats = 64 << 10;

// An axis and the runs of outputs that meet the same taps.
struct Runs {
  TapAxis axis;
  Scratch<Range> ranges;
  std::int64_t count;

  LAMELLA_INLINE explicit Runs(const TapAxis& a)
      : axis(a), ranges("conv2d", 2 * a.count + 1), count(cut_ranges(a, ranges.get())) {}

  LAMELLA_INLINE const Range& of(std::int64_t output) const {
    std::int64_t i = 0;
    while (ranges.get()[i].end <= output) ++i;
    return ranges.get()[i];
  }
  // The taps of a row follow one another.
  LAMELLA_INLINE std::int64_t neighbours() const { return consecutive(axis) ? axis.count : 0; }
  // Positions inside the image, counted from the first output's first tap.
  LAMELLA_INLINE Inside inside() const { return {-axis.first(), axis.input - axis.first()}; }
  // Between neighbouring taps, which lie at equal distances.
  LAMELLA_INLINE std::int64_t tap() const {
    return axis.count > 1 ? axis.offset[1] - axis.offset[0] : 1;
  }
};

// Whether an image this large comes from L3 or memory: its rows are prefetched, which costs a
// little where they lie in L2 anyway.
LAMELLA_INLINE bool is_far(std::int64_t floats) {
  return floats > (1 << 20);
}

struct DepthwiseSum {
  std::int64_t batch;
  TapAxis h, w;
  const std::int64_t* h_tap;  // the taps' numbers in the kernel
  const std::int64_t* w_tap;
  std::int64_t kernel_width;
  std::int64_t channels;
  const float* x;
  const float* kernel;
  const float* bias;
  Activation activation;
  float* y;
  float* pre_activation;
  std::int64_t y_pixel, y_row, y_image;
};

std::int64_t distance(const std::int64_t* taps, std::int64_t count) {
  return count > 1 ? taps[1] - taps[0] : 1;
}

void run_depthwise(const DepthwiseSum& s) {
  const Runs h(s.h);
  const Runs w(s.w);
  const std::int64_t channels = s.channels;
  const bool serial =
      s.batch * s.h.output * s.w.output * channels * s.h.count * s.w.count < (64 << 10);
  const int slots = serial ? 1 : num_threads();
  const Blocks cut = cut_evenly(cut_blocks(s.batch, s.h, s.w, channels, block_pixels, block_floats),
                                s.batch, s.h.output, slots);
  float* const result = s.pre_activation != nullptr ? s.pre_activation : s.y;
  const bool far = is_far(s.batch * s.h.input * s.w.input * channels);
  const bool streams = s.activation.kind == Kind::linear && can_stream(result, channels) &&
                       can_stream(result, s.y_pixel) && outgrows_cache(s.batch * s.y_image * 4);
  const DepthwiseRow whole_row = depthwise_row_kernel(w.neighbours(), s.w.step);
  const auto row = [&](std::int64_t n, std::int64_t i) {
    const Range& hr = h.of(i);
    const std::int64_t at = n * s.y_image + i * s.y_row;
    DepthwiseTaps t;
    t.x_row = h.tap() * s.w.input * channels;
    t.x_tap = w.tap() * channels;
    t.x_output = s.w.step * channels;
    t.kernel_row = distance(s.h_tap, s.h.count) * s.kernel_width * channels;
    t.kernel_tap = distance(s.w_tap, s.w.count) * channels;
    t.bias = s.bias;
    t.ahead = 0;
    t.stream = streams;
    const bool reads = hr.tap_begin < hr.tap_end;
    if (whole_row != nullptr && reads) {
      const std::int64_t a = i * s.h.step + s.h.offset[hr.tap_begin];
      t.rows = hr.tap_end - hr.tap_begin;
      // What the next row of outputs reads more.
      if (far) t.ahead = t.rows * t.x_row;
      t.count = s.w.count;
      t.x = s.x + ((n * s.h.input + a) * s.w.input + s.w.first()) * channels;
      t.kernel = s.kernel + (s.h_tap[hr.tap_begin] * s.kernel_width + s.w_tap[0]) * channels;
      whole_row(t, w.inside(), channels, s.w.output, result + at, s.y_pixel);
    }
    for (std::int64_t r = 0; r < (whole_row != nullptr && reads ? 0 : w.count); ++r) {
      const Range& wr = w.ranges.get()[r];
      t.rows = hr.tap_end - hr.tap_begin;
      t.count = wr.tap_end - wr.tap_begin;
      t.x = s.x;
      t.kernel = s.kernel;
      if (t.rows > 0 && t.count > 0) {
        const std::int64_t a = i * s.h.step + s.h.offset[hr.tap_begin];
        const std::int64_t b = wr.begin * s.w.step + s.w.offset[wr.tap_begin];
        t.x += ((n * s.h.input + a) * s.w.input + b) * channels;
        t.kernel += (s.h_tap[hr.tap_begin] * s.kernel_width + s.w_tap[wr.tap_begin]) * channels;
      } else {
        t.rows = 0;
      }
      depthwise_run(t, channels, wr.end - wr.begin, result + at + wr.begin * s.y_pixel, s.y_pixel);
    }
    if (s.activation.kind == Kind::linear) return;
    for (std::int64_t j = 0; j < s.w.output; ++j) {
      float* y = s.y + at + j * s.y_pixel;
      if (result != s.y) {
        std::memcpy(y, result + at + j * s.y_pixel,
                    static_cast<std::size_t>(channels) * sizeof(float));
      }
      activate_row(s.activation, y, channels);
    }
  };
  parallel_for_slots(cut.count, slots, [&](std::int64_t index, int) {
    const Block block = block_at(cut, index, s.batch, s.h.output);
    for (std::int64_t n = block.image; n < block.image + block.images; ++n) {
      for (std::int64_t i = block.row; i < block.row + block.rows; ++i) row(n, i);
    }
    if (streams) stream_fence();
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

}  // namespace

void depthwise_correlate(const Problem& p, const float* x, const float* kernel,
                         const conv2d::Output& y) {
  const std::int64_t m = p.filters / p.channels;
  const std::int64_t pixels = p.batch * p.height.input * p.width.input;
  const Scratch<float> repeated("conv2d", m > 1 ? pixels * p.filters : 0);
  if (m > 1) repeat_channels(x, pixels, p.channels, m, repeated.get());
  const std::int64_t axes = p.height.kernel + p.width.kernel;
  const Scratch<std::int64_t> offsets("conv2d", axes + max_i(p.height.kernel, p.width.kernel));
  std::int64_t* const numbers = offsets.get() + axes;
  for (std::int64_t t = 0; t < max_i(p.height.kernel, p.width.kernel); ++t) numbers[t] = t;
  run_depthwise({p.batch, forward_axis(p.height, offsets.get()),
                 forward_axis(p.width, offsets.get() + p.height.kernel), numbers, numbers,
                 p.width.kernel, p.filters, m > 1 ? repeated.get() : x, kernel, y.bias,
                 y.activation, y.data, y.pre_activation, p.filters, p.width.output * p.filters,
                 p.height.output * p.width.output * p.filters});
}

void depthwise_input_gradient(const Problem& p, const float* dz, const float* kernel,
                              const conv2d::Output& dx) {
  const std::int64_t m = p.filters / p.channels;
  const std::int64_t pixels = p.batch * p.height.input * p.width.input;
  const Scratch<float> repeated("conv2d", m > 1 ? pixels * p.filters : 0);
  float* const target = m > 1 ? repeated.get() : dx.data;
  const Scratch<std::int64_t> offsets("conv2d", 2 * (p.height.kernel + p.width.kernel));
  for_each_phase(p, offsets.get(), [&](const Phase& h, const Phase& w) {
    const std::int64_t row = p.width.input * p.filters;
    const std::int64_t first = h.residue * row + w.residue * p.filters;
    const bool direct = m == 1;
    run_depthwise({p.batch, h.axis, w.axis, h.tap, w.tap, p.width.kernel, p.filters, dz, kernel,
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
  const std::int64_t size = p.taps() * channels;
  if (p.batch == 0) return zero_fill(dkernel, size);
  const Scratch<std::int64_t> axes("conv2d", p.height.kernel + p.width.kernel);
  const Runs h(forward_axis(p.height, axes.get()));
  const Runs w(forward_axis(p.width, axes.get() + p.height.kernel));
  const Blocks cut = cut_blocks(p.batch, h.axis, w.axis, channels, block_pixels, block_floats);
  const PartialSums partial(cut.count, size, dkernel);
  const bool serial = p.batch * h.axis.output * w.axis.output * size < (64 << 10);
  const bool far = is_far(p.batch * h.axis.input * w.axis.input * channels);
  const DepthwiseGradientRow whole_row = depthwise_gradient_row_kernel(w.neighbours(), w.axis.step);
  const auto add_row = [&](std::int64_t n, std::int64_t i, float* sum) {
    const Range& hr = h.of(i);
    if (hr.tap_begin == hr.tap_end) return;
    const std::int64_t a = i * h.axis.step + h.axis.offset[hr.tap_begin];
    const float* const x_row = image + (n * h.axis.input + a) * w.axis.input * channels;
    const float* const dz_row = dz + (n * h.axis.output + i) * w.axis.output * channels;
    float* const sum_row = sum + hr.tap_begin * w.axis.count * channels;
    DepthwiseGradient t;
    t.x_row = h.tap() * w.axis.input * channels;
    t.x_tap = w.tap() * channels;
    t.x_output = w.axis.step * channels;
    t.rows = hr.tap_end - hr.tap_begin;
    t.dz_output = channels;
    t.sum_row = w.axis.count * channels;
    t.sum_tap = channels;
    t.x_ahead = far ? t.rows * t.x_row : 0;
    t.dz_ahead = w.axis.output * channels;
    if (whole_row != nullptr) {
      t.x = x_row + w.axis.first() * channels;
      t.count = w.axis.count;
      t.dz = dz_row;
      t.outputs = w.axis.output;
      t.sum = sum_row;
      return whole_row(t, w.inside(), channels);
    }
    for (std::int64_t r = 0; r < w.count; ++r) {
      const Range& wr = w.ranges.get()[r];
      if (wr.tap_begin == wr.tap_end) continue;
      t.x = x_row + (wr.begin * w.axis.step + w.axis.offset[wr.tap_begin]) * channels;
      t.count = wr.tap_end - wr.tap_begin;
      t.dz = dz_row + wr.begin * channels;
      t.outputs = wr.end - wr.begin;
      t.sum = sum_row + wr.tap_begin * channels;
      depthwise_gradient_run(t, channels);
    }
  };
  parallel_for_slots(partial.count, serial ? 1 : num_threads(), [&](std::int64_t q, int) {
    float* const sum = partial.data(q);
    zero_fill(sum, size);
    for (std::int64_t b = partial.begin(q); b < partial.begin(q + 1); ++b) {
      const Block block = block_at(cut, b, p.batch, h.axis.output);
      for (std::int64_t n = block.image; n < block.image + block.images; ++n) {
        for (std::int64_t i = block.row; i < block.row + block.rows; ++i) add_row(n, i, sum);
      }
    }
  });
  partial.reduce();
}

}  // namespace lamella::LAMELLA_ISA
