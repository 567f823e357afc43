// A sum over taps as matrix products: what is summed, and the kernel as the panels that the
// products read. conv2d_cpu.cpp computes it, conv2d_table_sum.h where x has few channels.
#pragma once

#include "core/memory_pool.h"
#include "gemm/gemm.h"
#include "gemm/tile.h"
#include "ops/conv2d/conv2d_taps.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {

// The kernel as the matrix of a sum over taps: element (term, column) of a group, where a term is a
// tap and a channel of x.
struct TapKernel {
  const float* data;     // (KH, KW, C/G, F)
  std::int64_t filters;  // F
  // Forward the terms lie one after the other and a column is a filter. For the input gradient a
  // column is a channel, the terms of a tap are filters, and the taps come in the phase's order.
  bool transposed;
  std::int64_t channels;  // C/G
  const std::int64_t* h_tap;
  const std::int64_t* w_tap;
  std::int64_t kernel_width, w_count;
};

// Where the results lie.
struct Target {
  float* data;
  float* pre_activation;  // same layout, or null
  std::int64_t pixel, row, image;

  float* result() const { return pre_activation != nullptr ? pre_activation : data; }
};

struct TapSum {
  const float* x;
  std::int64_t batch;
  TapAxis h, w;
  std::int64_t channels;  // of x
  std::int64_t groups;
  std::int64_t run;      // channels of x a group
  std::int64_t columns;  // channels of the result a group
  TapKernel kernel;
  const float* bias;
  Activation activation;
  Target y;

  std::int64_t terms() const { return h.count * w.count * run; }
  std::int64_t multiply_adds() const {
    return batch * h.output * w.output * terms() * columns * groups;
  }
  // Applied while the result is in registers.
  bool relu_in_tile() const { return activation.kind == Kind::relu && y.pre_activation == nullptr; }

  // What leaves nothing to do afterwards.
  bool activates_in_tile() const { return relu_in_tile() || activation.kind == Kind::linear; }

  // Terms [begin, end) of columns [j, j + width) of a group, zero-filled to width.
  void pack(std::int64_t group, std::int64_t j, std::int64_t begin, std::int64_t end,
            std::int64_t width, float* to) const {
    const std::int64_t count = min_i(width, columns - j);
    if (!kernel.transposed) {
      return pack_panel({kernel.data + begin * kernel.filters, kernel.filters, 1}, end - begin,
                        group * columns + j, count, width, to);
    }
    for (std::int64_t k = begin; k < end;) {
      const std::int64_t tap = k / run;
      const std::int64_t length = min_i((tap + 1) * run, end) - k;
      const std::int64_t at = kernel.h_tap[tap / kernel.w_count] * kernel.kernel_width +
                              kernel.w_tap[tap % kernel.w_count];
      const float* from =
          kernel.data + at * kernel.channels * kernel.filters + group * run + k % run;
      pack_panel({from, 1, kernel.filters}, length, j, count, width, to);
      to += length * width;
      k += length;
    }
  }

  // The kernel is one panel as it lies.
  bool is_panel(std::int64_t width) const {
    return !kernel.transposed && groups == 1 && columns == width;
  }

  // All of it, [group][panel][term][width].
  void pack_all(std::int64_t width, int slots, float* to) const {
    const std::int64_t panels = ceil_div(columns, width);
    const std::int64_t chunk = max_i(16, (16 << 10) / width);
    const std::int64_t chunks = ceil_div(terms(), chunk);
    parallel_for_slots(groups * panels * chunks, slots, [&](std::int64_t i, int) {
      const std::int64_t panel = i / chunks;
      const std::int64_t begin = i % chunks * chunk;
      pack(panel / panels, panel % panels * width, begin, min_i(terms(), begin + chunk), width,
           to + (panel * terms() + begin) * width);
    });
  }

  // What relu_in_tile leaves to do for `count` channels of a pixel whose result is still in cache.
  void activate(std::int64_t at, std::int64_t count) const {
    if (activates_in_tile()) return;
    if (y.pre_activation != nullptr) {
      std::memcpy(y.data + at, y.pre_activation + at,
                  static_cast<std::size_t>(count) * sizeof(float));
    }
    activate_row(activation, y.data + at, count);
  }
};

}  // namespace lamella::LAMELLA_ISA
