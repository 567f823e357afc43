// Sums of the columns of a matrix, on the calling thread: out[c] = sum over r of x[r, c].
#pragma once

#include "simd/column_groups.h"

namespace lamella::LAMELLA_ISA {

namespace detail {

// Narrow matrices without gaps between rows: `width` rows are one row of `columns` whole vectors,
// whose lanes hold the columns in turn.
inline void narrow_column_sums(const float* x, std::int64_t rows, std::int64_t columns,
                               float* out) {
  constexpr std::int64_t width = Float::width;
  float folded[width * width];
  const std::int64_t groups = rows / width;
  for (std::int64_t v = 0; v < columns; ++v) {
    Float sum = zero();
    for (std::int64_t g = 0; g < groups; ++g) sum = sum + load(x + (g * columns + v) * width);
    store(folded + v * width, sum);
  }
  for (std::int64_t c = 0; c < columns; ++c) {
    float sum = 0.0f;
    for (std::int64_t r = 0; r < width; ++r) sum += folded[r * columns + c];
    for (std::int64_t r = groups * width; r < rows; ++r) sum += x[r * columns + c];
    out[c] = sum;
  }
}

}  // namespace detail

// row_stride: floats from one row to the next.
inline void column_sums(const float* x, std::int64_t rows, std::int64_t columns,
                        std::int64_t row_stride, float* out) {
  constexpr std::int64_t width = Float::width;
  if (columns < width && row_stride == columns && rows >= width) {
    return detail::narrow_column_sums(x, rows, columns, out);
  }
  for_column_groups(0, columns, [&](auto vectors, auto at) {
    constexpr int count = decltype(vectors)::count;
    // One vector alone would wait for each addition's latency: it has four sums in turn as well.
    constexpr int turns = 4 / count;
    Float sums[turns][count];
    for (auto& turn : sums) {
      for (Float& s : turn) s = zero();
    }
    const auto add_row = [&](std::int64_t r, int turn) {
      for (int v = 0; v < count; ++v) {
        sums[turn][v] = sums[turn][v] + at.get(x + r * row_stride + v * width);
      }
    };
    std::int64_t r = 0;
    for (; r + turns <= rows; r += turns) {
      for (int turn = 0; turn < turns; ++turn) add_row(r + turn, turn);
    }
    for (; r < rows; ++r) add_row(r, 0);
    for (int v = 0; v < count; ++v) {
      Float total = sums[0][v];
      for (int turn = 1; turn < turns; ++turn) total = total + sums[turn][v];
      at.put(out + v * width, total);
    }
  });
}

}  // namespace lamella::LAMELLA_ISA
