// avg_pool2d and global_avg_pool2d: the loops of max_pool2d, with sums.
#include "ops/pool2d/pool2d_simd.h"
#include "simd/column_sums.h"

namespace lamella::LAMELLA_ISA {
namespace {

// 1 / (the positions of window `output` that count along an axis), 0 where none does. The product
// of both axes' shares, in double, is 1 / count to within a float's rounding.
Scratch<double> shares(const WindowAxis& axis, bool count_include_pad) {
  Scratch<double> table("avg_pool2d", axis.output);
  for (std::int64_t o = 0; o < axis.output; ++o) {
    const std::int64_t count =
        count_include_pad
            ? taps_between(axis, o, -axis.pad_before, axis.input + axis.pad_after).size()
            : taps_inside(axis, o).size();
    table.get()[o] = count == 0 ? 0.0 : 1.0 / static_cast<double>(count);
  }
  return table;
}

struct Shares {
  Scratch<double> rows;
  Scratch<double> columns;
  Shares(const PoolGeometry& g, bool count_include_pad)
      : rows(shares(g.height, count_include_pad)), columns(shares(g.width, count_include_pad)) {}
  float operator()(std::int64_t oh, std::int64_t ow) const {
    return static_cast<float>(rows.get()[oh] * columns.get()[ow]);
  }
};

// One output pixel; see pool2d_cpu_max.cpp.
template <class Taps>
LAMELLA_INLINE void pool_pixel(const Taps& taps, const float* image, std::int64_t origin,
                               std::int64_t row_step, std::int64_t column_step,
                               std::int64_t channels, float share, float* y) {
  for_vectors(0, channels, [&](auto at) {
    Float sum = zero();
    for (std::int64_t kh = taps.row_begin; kh < taps.row_end; ++kh) {
      for (std::int64_t kw = taps.column_begin; kw < taps.column_end; ++kw) {
        sum = sum + at.get(image + (origin + (kh - taps.row_begin) * row_step +
                                    (kw - taps.column_begin) * column_step));
      }
    }
    at.put(y, sum * set(share));
  });
}

void forward(const PoolGeometry& g, bool count_include_pad, const float* x, float* y) {
  const Shares share(g, count_include_pad);
  const std::int64_t channels = g.channels;
  const std::int64_t row_step = tap_step(g.height) * g.width.input * channels;
  const std::int64_t column_step = tap_step(g.width) * channels;
  parallel_rows(
      g.batch * g.height.output, g.width.output, window_floats(g),
      [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
        const float* image = x + row / g.height.output * g.height.input * g.width.input * channels;
        for_each_window(g, row, begin, end, [&](const auto& window) {
          const std::int64_t origin = (window.row * g.width.input + window.column) * channels;
          pool_pixel(window.taps, image, origin, row_step, column_step, channels,
                     share(window.oh, window.ow), y + window.pixel * channels);
        });
      });
}

void backward(const PoolGeometry& g, bool count_include_pad, const float* dy, float* dx) {
  struct Source {
    const float* gradient;
    float share;
  };
  const Shares share(g, count_include_pad);
  const CoverTable rows = cover_table("avg_pool2d", g.height);
  const CoverTable columns = cover_table("avg_pool2d", g.width);
  parallel_rows(
      g.batch * g.height.input, g.width.input, g.channels,
      [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
        const std::int64_t first_row = row / g.height.input * g.height.output;
        const auto source = [&](std::int64_t oh, std::int64_t ow, std::int64_t, std::int64_t) {
          return Source{dy + ((first_row + oh) * g.width.output + ow) * g.channels, share(oh, ow)};
        };
        const auto value = [](const Source& s, auto at) {
          return at.get(s.gradient) * set(s.share);
        };
        gather_windows(g, rows, columns, row, begin, end, dx, source, value);
      });
}

// Positions summed by one task: enough work, and short enough sums for their rounding.
constexpr std::int64_t chunk = 512;
constexpr std::int64_t channel_block = 256;

void global_forward(std::int64_t batch, std::int64_t positions, std::int64_t channels,
                    const float* x, float* y) {
  const std::int64_t chunks = ceil_div(positions, chunk);
  const std::int64_t blocks = ceil_div(channels, channel_block);
  const Scratch<float> partial("global_avg_pool2d", chunks > 1 ? batch * chunks * channels : 0);
  float* sums = chunks > 1 ? partial.get() : y;
  const std::int64_t floats = min_i(positions, chunk) * min_i(channels, channel_block);
  parallel_rows(
      batch * chunks, blocks, floats, [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
        const std::int64_t first = row % chunks * chunk;
        const float* image = x + (row / chunks * positions + first) * channels;
        const std::int64_t c = begin * channel_block;
        column_sums(image + c, min_i(chunk, positions - first),
                    min_i(channels, end * channel_block) - c, channels, sums + row * channels + c);
      });
  const float share = static_cast<float>(1.0 / static_cast<double>(positions));
  parallel_rows(batch, 1, chunks * channels, [&](std::int64_t n, std::int64_t, std::int64_t) {
    const float* image = sums + n * chunks * channels;
    for_vectors(0, channels, [&](auto at) {
      Float sum = at.get(image);
      for (std::int64_t i = 1; i < chunks; ++i) sum = sum + at.get(image + i * channels);
      at.put(y + n * channels, sum * set(share));
    });
  });
}

void global_backward(std::int64_t batch, std::int64_t positions, std::int64_t channels,
                     const float* dy, float* dx) {
  const float share = static_cast<float>(1.0 / static_cast<double>(positions));
  parallel_rows(
      batch, positions, channels, [&](std::int64_t n, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          float* pixel = dx + (n * positions + i) * channels;
          for_vectors(0, channels,
                      [&](auto at) { at.put(pixel, at.get(dy + n * channels) * set(share)); });
        }
      });
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::avg_pool2d::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::forward, kernel::backward, kernel::global_forward,
                                kernel::global_backward};

}  // namespace lamella::avg_pool2d::LAMELLA_ISA
