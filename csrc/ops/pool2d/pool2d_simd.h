// What the pools share: which taps of a window lie inside the image, which windows hold a position
// of the image, and how the rows are cut into tasks.
#pragma once

#include "core/memory_pool.h"
#include "ops/pool2d/pool2d.h"
#include "simd/parallel_rows.h"
#include "simd/pointwise.h"

namespace lamella::LAMELLA_ISA {

struct Interval {
  std::int64_t begin;
  std::int64_t end;
  std::int64_t size() const { return end - begin; }
};

// The taps of window `output` inside [low, high), positions of the input.
LAMELLA_INLINE Interval taps_between(const WindowAxis& axis, std::int64_t output, std::int64_t low,
                                     std::int64_t high) {
  const std::int64_t start = output * axis.stride - axis.pad_before;
  const std::int64_t begin = start >= low ? 0 : ceil_div(low - start, axis.dilation);
  const std::int64_t end =
      start >= high ? 0 : min_i(axis.kernel, (high - 1 - start) / axis.dilation + 1);
  return {begin, max_i(begin, end)};
}

LAMELLA_INLINE Interval taps_inside(const WindowAxis& axis, std::int64_t output) {
  return taps_between(axis, output, 0, axis.input);
}

// The outputs whose windows need no padding.
LAMELLA_INLINE Interval whole_windows(const WindowAxis& axis) {
  const std::int64_t begin = min_i(axis.output, ceil_div(axis.pad_before, axis.stride));
  const std::int64_t room = axis.pad_before + axis.input - axis.extent();
  const std::int64_t end = room < 0 ? 0 : min_i(axis.output, room / axis.stride + 1);
  return {begin, max_i(begin, end)};
}

// The taps [row_begin, row_end) x [column_begin, column_end) of a window. AllTaps: all of them, as
// many as the compiler can unroll.
template <int kernel_height, int kernel_width>
struct AllTaps {
  static constexpr std::int64_t row_begin = 0, row_end = kernel_height;
  static constexpr std::int64_t column_begin = 0, column_end = kernel_width;
};
struct SomeTaps {
  std::int64_t row_begin, row_end;
  std::int64_t column_begin, column_end;
};

// One output pixel: the window's taps that lie inside the image, where the first one of them lies,
// and the pixel among all of y.
template <class Taps>
struct Window {
  Taps taps;
  std::int64_t row, column;  // 0 where no tap lies inside
  std::int64_t oh, ow;
  std::int64_t pixel;
};

// Positions from one tap to the next, where both lie inside: others are of no interest, and their
// distance in the image may overflow.
LAMELLA_INLINE std::int64_t tap_step(const WindowAxis& axis) {
  return min_i(axis.dilation, axis.input);
}

// body(window) for the pixels [begin, end) of output row `row` of all images. The pixels whose
// window is whole, nearly all, see AllTaps for the common sizes.
template <class Body>
LAMELLA_INLINE void for_each_window(const PoolGeometry& g, std::int64_t row, std::int64_t begin,
                                    std::int64_t end, const Body& body) {
  const std::int64_t oh = row % g.height.output;
  const auto first = [](const WindowAxis& axis, std::int64_t output, const Interval& taps) {
    if (taps.size() == 0) return std::int64_t{0};
    return output * axis.stride - axis.pad_before + taps.begin * axis.dilation;
  };
  const Interval rows = taps_inside(g.height, oh);
  const std::int64_t first_row = first(g.height, oh, rows);
  const auto pixel = [&](std::int64_t ow, const auto& taps) {
    const Interval columns = {taps.column_begin, taps.column_end};
    const std::int64_t first_column = first(g.width, ow, columns);
    body(Window{taps, first_row, first_column, oh, ow, row * g.width.output + ow});
  };
  const auto clipped_pixels = [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t ow = from; ow < to; ++ow) {
      const Interval columns = taps_inside(g.width, ow);
      pixel(ow, SomeTaps{rows.begin, rows.end, columns.begin, columns.end});
    }
  };
  const auto whole_pixels = [&](std::int64_t from, std::int64_t to, const auto& taps) {
    for (std::int64_t ow = from; ow < to; ++ow) pixel(ow, taps);
  };
  const bool row_is_whole = rows.size() == g.height.kernel;
  const Interval whole = row_is_whole ? whole_windows(g.width) : Interval{0, 0};
  const std::int64_t whole_begin = min_i(end, max_i(begin, whole.begin));
  const std::int64_t whole_end = max_i(whole_begin, min_i(end, whole.end));
  clipped_pixels(begin, whole_begin);
  if (g.height.kernel == 2 && g.width.kernel == 2) {
    whole_pixels(whole_begin, whole_end, AllTaps<2, 2>{});
  } else if (g.height.kernel == 3 && g.width.kernel == 3) {
    whole_pixels(whole_begin, whole_end, AllTaps<3, 3>{});
  } else {
    whole_pixels(whole_begin, whole_end, SomeTaps{0, g.height.kernel, 0, g.width.kernel});
  }
  clipped_pixels(whole_end, end);
}

// Floats of the image that one output pixel reads.
LAMELLA_INLINE std::int64_t window_floats(const PoolGeometry& g) {
  return g.channels * min_i(g.height.kernel, g.height.input) * min_i(g.width.kernel, g.width.input);
}

template <bool flag>
struct Flag {
  static constexpr bool value = flag;
};

// The windows that hold one position: `count` of them, `output`, `output` + output_step, ...,
// through the taps `tap`, `tap` - tap_step, ...
struct Cover {
  std::int64_t output;
  std::int64_t tap;
  std::int64_t count;
};

struct CoverTable {
  Scratch<Cover> covers;  // one a position
  std::int64_t output_step;
  std::int64_t tap_step;
};

inline CoverTable cover_table(const char* op, const WindowAxis& axis) {
  CoverTable table{Scratch<Cover>(op, axis.input), 1, 1};
  Cover* covers = table.covers.get();
  for (std::int64_t i = 0; i < axis.input; ++i) covers[i] = {0, 0, 0};
  for (std::int64_t o = 0; o < axis.output; ++o) {
    const Interval taps = taps_inside(axis, o);
    for (std::int64_t k = taps.begin; k < taps.end; ++k) {
      Cover& cover = covers[o * axis.stride + k * axis.dilation - axis.pad_before];
      if (cover.count == 0) {
        cover = {o, k, 1};
      } else {
        ++cover.count;
      }
    }
  }
  // o stride + k dilation stays the same when o grows by dilation / gcd and k falls by stride /
  // gcd.
  std::int64_t a = axis.stride;
  std::int64_t b = axis.dilation;
  while (b != 0) {
    const std::int64_t rest = a % b;
    a = b;
    b = rest;
  }
  table.output_step = axis.dilation / a;
  table.tap_step = axis.stride / a;
  return table;
}

// Pixels [begin, end) of row `row` (of all images) of dx: each is written with the sum of what its
// windows give, in row-major order of the outputs.
//   source(oh, ow, kh, kw)   what is the same for all channels of one window's tap
//   value(source, at)        its gradient of the channels in one vector
template <class Source, class Value>
LAMELLA_INLINE void gather_windows(const PoolGeometry& g, const CoverTable& cover_rows,
                                   const CoverTable& cover_columns, std::int64_t row,
                                   std::int64_t begin, std::int64_t end, float* dx,
                                   const Source& source, const Value& value) {
  const Cover rows = cover_rows.covers.get()[row % g.height.input];
  const Cover* covers = cover_columns.covers.get();
  const auto write_row = [&](std::int64_t oh, std::int64_t kh, auto accumulate) {
    constexpr bool add = decltype(accumulate)::value;
    for (std::int64_t w = begin; w < end; ++w) {
      float* pixel = dx + (row * g.width.input + w) * g.channels;
      const Cover columns = covers[w];
      const auto column_source = [&](std::int64_t j) {
        return source(oh, columns.output + j * cover_columns.output_step, kh,
                      columns.tap - j * cover_columns.tap_step);
      };
      if (columns.count == 1) {
        const auto only = column_source(0);
        for_vectors(0, g.channels, [&](auto at) {
          const Float sum = value(only, at);
          at.put(pixel, add ? at.get(pixel) + sum : sum);
        });
        continue;
      }
      if (columns.count == 2) {
        const auto first = column_source(0);
        const auto second = column_source(1);
        for_vectors(0, g.channels, [&](auto at) {
          const Float before = value(first, at);
          const Float sum = add ? at.get(pixel) + before : before;
          at.put(pixel, sum + value(second, at));
        });
        continue;
      }
      for_vectors(0, g.channels, [&](auto at) {
        Float sum = add ? at.get(pixel) : zero();
        for (std::int64_t j = 0; j < columns.count; ++j) {
          sum = sum + value(column_source(j), at);
        }
        at.put(pixel, sum);
      });
    }
  };
  if (rows.count == 0) {
    const std::int64_t size = (end - begin) * g.channels;
    float* pixels = dx + (row * g.width.input + begin) * g.channels;
    for_vectors(0, size, [&](auto at) { at.put(pixels, zero()); });
    return;
  }
  write_row(rows.output, rows.tap, Flag<false>{});
  for (std::int64_t i = 1; i < rows.count; ++i) {
    write_row(rows.output + i * cover_rows.output_step, rows.tap - i * cover_rows.tap_step,
              Flag<true>{});
  }
}

}  // namespace lamella::LAMELLA_ISA
