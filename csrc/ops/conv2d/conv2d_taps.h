// The form in which convolution and input gradient are the same computation, a sum over taps:
//
//   y[n, i, j, :] = sum over taps (p, q) of x[n, i*step_h + rows[p], j*step_w + columns[q], :] W[p,
//   q]
//
// Convolution: step is the stride, rows[p] = p*dilation - top. The input gradient with stride s
// splits into s*s of them, one for each residue of the output position (its "phase"): step is 1 and
// only the taps that meet the residue take part.
#pragma once

#include "ops/conv2d/conv2d.h"
#include "simd/vec.h"

namespace lamella::LAMELLA_ISA {

struct TapAxis {
  std::int64_t count;
  const std::int64_t* offset;  // ascending; where the tap reads, relative to position * step
  std::int64_t step;
  std::int64_t input;
  std::int64_t output;

  std::int64_t first() const { return count > 0 ? offset[0] : 0; }
  std::int64_t last() const { return count > 0 ? offset[count - 1] : 0; }
  // Positions read by outputs [begin, end), relative to the first one.
  std::int64_t span(std::int64_t begin, std::int64_t end) const {
    return (end - begin - 1) * step + last() - first() + 1;
  }
  bool inside() const { return first() >= 0 && (output - 1) * step + last() < input; }
};

// Outputs [begin, end) of one axis meet taps [tap_begin, tap_end), and only those.
struct Range {
  std::int64_t begin, end;
  std::int64_t tap_begin, tap_end;
};

// The ranges of an axis in order, at most 2 * count + 1; returns their number. Offsets ascend, so
// from one output to the next taps fall off at the end and come in at the beginning.
LAMELLA_INLINE std::int64_t cut_ranges(const TapAxis& a, Range* ranges) {
  std::int64_t count = 0;
  std::int64_t tap_begin = a.count;
  std::int64_t tap_end = a.count;
  for (std::int64_t i = 0; i < a.output;) {
    const std::int64_t at = i * a.step;
    while (tap_begin > 0 && at + a.offset[tap_begin - 1] >= 0) --tap_begin;
    while (tap_end > tap_begin && at + a.offset[tap_end - 1] >= a.input) --tap_end;
    std::int64_t end = a.output;
    if (tap_begin > 0) end = min_i(end, ceil_div(-a.offset[tap_begin - 1], a.step));
    if (tap_end > tap_begin) {
      end = min_i(end, ceil_div(a.input - a.offset[tap_end - 1], a.step));
    }
    ranges[count++] = {i, end, tap_begin, tap_end};
    i = end;
  }
  return count;
}

// A piece of the work small enough for L2: whole images, or some output rows of one image.
struct Block {
  std::int64_t image, images;
  std::int64_t row, rows;
};

struct Blocks {
  std::int64_t images;            // a block, where it is of whole images
  std::int64_t rows;              // a block
  std::int64_t blocks_per_image;  // 1 where a block is of whole images
  std::int64_t count;
};

// About `pixels` outputs a block, and at most `floats` of input.
LAMELLA_INLINE Blocks cut_blocks(std::int64_t batch, const TapAxis& h, const TapAxis& w,
                                 std::int64_t channels, std::int64_t pixels, std::int64_t floats) {
  const std::int64_t row_floats = w.span(0, w.output) * channels;
  std::int64_t rows = max_i(1, ceil_div(pixels, w.output));
  while (rows > 1 && h.span(0, min_i(rows, h.output)) * row_floats > floats) {
    rows = ceil_div(rows, 2);
  }
  if (rows >= h.output) {
    const std::int64_t image_floats = h.span(0, h.output) * row_floats;
    std::int64_t images = max_i(1, pixels / (h.output * w.output));
    images = max_i(1, min_i(images, floats / max_i(image_floats, 1)));
    images = min_i(images, batch);
    return {images, h.output, 1, ceil_div(batch, images)};
  }
  const std::int64_t per_image = ceil_div(h.output, rows);
  return {1, ceil_div(h.output, per_image), per_image, batch * per_image};
}

// The same for results that do not depend on the cut: a little smaller where that leaves the
// busiest of `threads` less to do.
LAMELLA_INLINE Blocks cut_evenly(const Blocks& cut, std::int64_t batch, std::int64_t rows,
                                 std::int64_t threads) {
  Blocks best = cut;
  std::int64_t least = -1;
  const bool whole = cut.blocks_per_image == 1 && (cut.images > 1 || batch >= threads);
  const std::int64_t most = whole ? cut.images : cut.rows;
  const std::int64_t fewest = cut.count < threads ? 1 : ceil_div(most, 2);
  for (std::int64_t size = most; size >= fewest; --size) {
    const std::int64_t per_image = whole ? 1 : ceil_div(rows, size);
    const std::int64_t count = whole ? ceil_div(batch, size) : batch * per_image;
    const std::int64_t busiest = ceil_div(count, threads) * size;
    if (least >= 0 && busiest >= least) continue;
    least = busiest;
    best = {whole ? size : 1, whole ? rows : size, per_image, count};
  }
  return best;
}

LAMELLA_INLINE Block block_at(const Blocks& cut, std::int64_t index, std::int64_t batch,
                              std::int64_t rows) {
  if (cut.blocks_per_image == 1) {
    const std::int64_t image = index * cut.images;
    return {image, min_i(cut.images, batch - image), 0, rows};
  }
  const std::int64_t row = index % cut.blocks_per_image * cut.rows;
  // Rounding the rows up may leave a last block without any.
  return {index / cut.blocks_per_image, 1, row, max_i(0, min_i(cut.rows, rows - row))};
}

// The input of a block: x itself, or a copy of the rows it reads framed with zeros.
struct Window {
  const float* data;               // position (first tap of the first output)
  std::int64_t pixel, row, image;  // strides in floats
};

LAMELLA_INLINE std::int64_t window_floats(const Blocks& cut, const TapAxis& h, const TapAxis& w,
                                          std::int64_t channels) {
  if (h.inside() && w.inside()) return 0;
  return cut.images * h.span(0, cut.rows) * w.span(0, w.output) * channels;
}

LAMELLA_INLINE void zero_fill(float* p, std::int64_t n) {
  if (n > 0) std::memset(p, 0, static_cast<std::size_t>(n) * sizeof(float));
}

// x is (batch, h.input, w.input, channels).
LAMELLA_INLINE Window open_window(const float* x, const TapAxis& h, const TapAxis& w,
                                  std::int64_t channels, const Block& block, float* copy) {
  const std::int64_t x_row = w.input * channels;
  const std::int64_t x_image = h.input * x_row;
  const std::int64_t top = block.row * h.step + h.first();
  if (h.inside() && w.inside()) {
    return {x + block.image * x_image + top * x_row + w.first() * channels, channels, x_row,
            x_image};
  }
  const std::int64_t rows = h.span(0, block.rows);
  const std::int64_t row = w.span(0, w.output) * channels;
  // The columns of x that a framed row holds, and where.
  const std::int64_t from = max_i(0, w.first());
  const std::int64_t to = min_i(w.input, w.first() + w.span(0, w.output));
  const std::int64_t left = (from - w.first()) * channels;
  const std::int64_t middle = max_i(0, to - from) * channels;
  for (std::int64_t n = 0; n < block.images; ++n) {
    for (std::int64_t i = 0; i < rows; ++i) {
      float* y = copy + (n * rows + i) * row;
      const std::int64_t a = top + i;
      if (a < 0 || a >= h.input || middle == 0) {
        zero_fill(y, row);
        continue;
      }
      zero_fill(y, left);
      std::memcpy(y + left, x + (block.image + n) * x_image + a * x_row + from * channels,
                  static_cast<std::size_t>(middle) * sizeof(float));
      zero_fill(y + left + middle, row - left - middle);
    }
  }
  return {copy, channels, row, rows * row};
}

// Taps whose positions follow one another in memory are one longer run of the reduction.
LAMELLA_INLINE bool consecutive(const TapAxis& w) {
  for (std::int64_t q = 1; q < w.count; ++q) {
    if (w.offset[q] != w.offset[q - 1] + 1) return false;
  }
  return true;
}

// Depthwise versions of the three products (conv2d_cpu_depthwise.cpp).
void depthwise_correlate(const conv2d::Problem& p, const float* x, const float* kernel,
                         const conv2d::Output& y);
void depthwise_input_gradient(const conv2d::Problem& p, const float* dz, const float* kernel,
                              const conv2d::Output& dx);
void depthwise_kernel_gradient(const conv2d::Problem& p, const float* x, const float* dz,
                               float* dkernel);
void kernel_gradient(const conv2d::Problem& p, const float* x, const conv2d::OutputGradient& g,
                     const conv2d::KernelGradients& out);

}  // namespace lamella::LAMELLA_ISA
