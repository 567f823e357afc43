// The gradient of a kernel that multiplied rows, and of the bias added to them.
#pragma once

#include "core/memory_pool.h"
#include "gemm/tile.h"
#include "ops/conv2d/conv2d_taps.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {

// A product of few terms: x is read in place, dz through a panel of some columns and rows that fits
// L1. Each element of dkernel is one sum over the rows in their order, on any number of threads.
class NarrowWeightGradient {
 public:
  // Rows of x so far apart still share few enough sets of L1 to be read in place.
  static constexpr std::int64_t most_terms = 128;

  NarrowWeightGradient(std::int64_t rows, std::int64_t terms, const float* x, std::int64_t columns,
                       const float* dz, float* dkernel, float* dbias)
      : rows_(rows),
        terms_(terms),
        columns_(columns),
        x_(x),
        dz_(dz),
        dkernel_(dkernel),
        dbias_(dbias) {}

  void run() const {
    const std::int64_t panels = ceil_div(columns_, panel_columns);
    const std::int64_t tiles = ceil_div(terms_, full_tile_rows(max_panel_vectors));
    const std::int64_t shares = min_i(tiles, ceil_div(num_threads(), panels));
    const int slots = static_cast<int>(min_i(num_threads(), panels * shares));
    const Scratch<float> memory("weight_gradient", slots * block_rows * panel_columns);
    parallel_for_slots(panels * shares, slots, [&](std::int64_t task, int slot) {
      const std::int64_t share = task % shares;
      panel(task / shares * panel_columns, terms_ * share / shares, terms_ * (share + 1) / shares,
            memory.get() + slot * block_rows * panel_columns);
    });
  }

 private:
  static constexpr int max_panel_vectors = wide_tile_rows < 4 ? 2 : max_tile_vectors;
  static constexpr std::int64_t panel_columns = max_panel_vectors * Float::width;
  static constexpr std::int64_t block_rows = 128;

  // Columns [j, j + panel_columns) of terms [begin, end).
  void panel(std::int64_t j, std::int64_t begin, std::int64_t end, float* dz) const {
    const std::int64_t count = min_i(panel_columns, columns_ - j);
    const int vectors = tile_vectors(count);
    Float sums[max_tile_vectors] = {zero(), zero(), zero(), zero()};
    for (std::int64_t row = 0; row < rows_; row += block_rows) {
      const std::int64_t rows = min_i(block_rows, rows_ - row);
      take(row, rows, j, count, vectors, sums, dz);
      const Segment segment = {0, 0, rows};
      Tile t = {};
      t.segments = &segment;
      t.segment_count = 1;
      t.a_step = terms_;
      t.b = dz;
      t.b_stride = panel_columns;
      t.columns = count;
      t.accumulate = row > 0;
      ReadAhead next(*this, row, j);
      const std::int64_t height =
          ceil_div(end - begin, ceil_div(end - begin, full_tile_rows(vectors)));
      for (std::int64_t i = begin; i < end; i += height) {
        const std::int64_t heads = min_i(height, end - i);
        const float* const a = x_ + row * terms_ + i;
        float* c[max_tile_rows];
        for (std::int64_t r = 0; r < heads; ++r) c[r] = dkernel_ + (i + r) * columns_ + j;
        t.a = &a;
        t.c = c;
        t.ahead = next.take(a);
        tile_kernel(Form::columns, heads, vectors)(t);
      }
    }
    if (dbias_ == nullptr || begin > 0) return;
    for (int v = 0; v < vectors; ++v) {
      store_n(dbias_ + j + v * Float::width, sums[v],
              min_i(Float::width, count - v * Float::width));
    }
  }

  // Copies rows of dz into a panel, and sums them.
  void take(std::int64_t row, std::int64_t rows, std::int64_t j, std::int64_t count, int vectors,
            Float (&sums)[max_tile_vectors], float* to) const {
    for (std::int64_t r = 0; r < rows; ++r, to += panel_columns) {
      const float* const from = dz_ + (row + r) * columns_ + j;
      for (int v = 0; v < vectors; ++v) {
        const Float d =
            load_n(from + v * Float::width, min_i(Float::width, count - v * Float::width));
        sums[v] = sums[v] + d;
        store(to + v * Float::width, d);
      }
    }
  }

  // The next block of dz, one of a row's lines after the other: its rows lie far apart.
  class ReadAhead {
   public:
    ReadAhead(const NarrowWeightGradient& g, std::int64_t row, std::int64_t j)
        : from_(g.dz_ + (row + block_rows) * g.columns_ + j),
          step_(g.columns_),
          lines_(row + 2 * block_rows <= g.rows_ ? panel_columns / line_floats : 0) {}
    Lines take(const float* near) {
      if (lines_ == 0) return {near, 0};
      --lines_;
      const Lines lines = {from_, step_};
      from_ += line_floats;
      return lines;
    }

   private:
    const float* from_;
    std::int64_t step_;
    std::int64_t lines_;
  };

  std::int64_t rows_, terms_, columns_;
  const float* x_;
  const float* dz_;
  float* dkernel_;
  float* dbias_;
};

// dkernel (terms, columns) = x^T dz, dbias (columns) = sums of dz over rows, unless it is null.
// x (rows, terms), dz (rows, columns), rows > 0.
inline void weight_gradient(std::int64_t rows, std::int64_t terms, const float* x,
                            std::int64_t columns, const float* dz, float* dkernel, float* dbias) {
  if (terms <= NarrowWeightGradient::most_terms) {
    return NarrowWeightGradient(rows, terms, x, columns, dz, dkernel, dbias).run();
  }
  // The kernel gradient of a convolution with one tap.
  const WindowAxis one = {1, 1, 1, 1, 0, 0, 1};
  const WindowAxis pixels = {rows, 1, 1, 1, 0, 0, rows};
  kernel_gradient({1, one, pixels, terms, columns, 1}, x, {{}, dz, nullptr},
                  {dkernel, dbias, nullptr});
}

}  // namespace lamella::LAMELLA_ISA
