// A sum over taps where x has few channels: the reduction is short and scattered, and read through
// a table of offsets from an image framed with zeros.
#pragma once

#include "ops/conv2d/conv2d_few_channels.h"
#include "ops/conv2d/conv2d_tap_sum.h"

namespace lamella::LAMELLA_ISA {

class TableSum {
 public:
  // Runs of the reduction shorter than this are worth a table, if it is not too long.
  static bool suits(const TapSum& s) {
    constexpr std::int64_t short_run = 16;
    constexpr std::int64_t max_terms = 512;
    const bool merged = s.groups == 1 && consecutive(s.w);
    const std::int64_t x_row = max_i(s.w.input, s.w.span(0, s.w.output)) * s.channels;
    return (merged ? s.w.count : 1) * s.run < short_run && s.terms() <= max_terms &&
           s.h.span(0, 1) * x_row < (std::int64_t{1} << 31);
  }

  explicit TableSum(const TapSum& s)
      : s_(s),
        vectors_(s.columns <= Float::width ? 1 : 2),
        width_(vectors_ * Float::width),
        panels_(ceil_div(s.columns, width_)),
        slots_(s.multiply_adds() < (128 << 10) ? 1 : num_threads()),
        cut_(cut_evenly(cut_blocks(s.batch, s.h, s.w, s.channels, 384, 128 << 10), s.batch,
                        s.h.output, slots_)) {}

  void run() const {
    const std::int64_t terms = s_.terms();
    const std::int64_t window = window_floats(cut_, s_.h, s_.w, s_.channels);
    const Scratch<float> windows("conv2d", window * slots_);
    const Scratch<std::int32_t> tables("conv2d", terms * slots_);
    const bool in_place = s_.is_panel(width_);
    const Scratch<float> packed("conv2d", in_place ? 0 : s_.groups * panels_ * width_ * terms);
    if (!in_place) s_.pack_all(width_, slots_, packed.get());
    const float* const kernel = in_place ? s_.kernel.data : packed.get();
    parallel_for_slots(cut_.count, slots_, [&](std::int64_t index, int slot) {
      const Block block = block_at(cut_, index, s_.batch, s_.h.output);
      if (block.rows <= 0) return;
      std::int32_t* const table = tables.get() + slot * terms;
      run_block(block,
                open_window(s_.x, s_.h, s_.w, s_.channels, block, windows.get() + slot * window),
                table, kernel);
    });
  }

 private:
  void run_block(const Block& block, const Window& window, std::int32_t* table,
                 const float* kernel) const {
    const std::int64_t terms = s_.terms();
    for (std::int64_t k = 0; k < terms; ++k) {
      const std::int64_t tap = k / s_.run;
      table[k] = static_cast<std::int32_t>(
          (s_.h.offset[tap / s_.w.count] - s_.h.first()) * window.row +
          (s_.w.offset[tap % s_.w.count] - s_.w.first()) * window.pixel + k % s_.run);
    }
    TableRow row;
    row.x_step = s_.w.step * window.pixel;
    row.table = table;
    row.terms = terms;
    row.relu = s_.relu_in_tile();
    row.y_step = s_.y.pixel;
    row.outputs = s_.w.output;
    for (std::int64_t panel = 0; panel < s_.groups * panels_; ++panel) {
      const std::int64_t j = panel % panels_ * width_;
      const std::int64_t channel = panel / panels_ * s_.columns + j;
      row.b = kernel + panel * terms * width_;
      row.bias = s_.bias == nullptr ? nullptr : s_.bias + channel;
      row.columns = min_i(width_, s_.columns - j);
      for (std::int64_t i = 0; i < block.images * block.rows; ++i) {
        const std::int64_t n = i / block.rows;
        const std::int64_t r = i % block.rows;
        const std::int64_t at =
            (block.image + n) * s_.y.image + (block.row + r) * s_.y.row + channel;
        row.x =
            window.data + n * window.image + r * s_.h.step * window.row + panel / panels_ * s_.run;
        row.y = s_.y.result() + at;
        // The panel's layout has vectors_ to a term, also where the last panel fills only one.
        if (vectors_ == 1) {
          table_row<1>(row);
        } else {
          table_row<2>(row);
        }
        if (row.relu || s_.activation.kind == Kind::linear) continue;
        for (std::int64_t q = 0; q < s_.w.output; ++q) {
          s_.activate(at + q * s_.y.pixel, row.columns);
        }
      }
    }
  }

  TapSum s_;
  int vectors_;
  std::int64_t width_, panels_;
  int slots_;
  Blocks cut_;
};

}  // namespace lamella::LAMELLA_ISA
