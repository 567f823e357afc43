// The convolutions' operands for the matrix product (cuda/gemm.cuh): read in place from the image
// and the kernel as they lie, no im2col anywhere.
//
//   convolution      pixels of y by filters, over (tap, channel)      Gather  x  kernel (Strided)
//   input gradient   pixels of dx by channels, over (tap, filter)     Gather  x  TurnedKernel
//   kernel gradient  (tap, channel) by filters, over pixels of y      Patches x  dz (Strided)
//
// A product is a group. The input gradient of a strided convolution is one product for each phase:
// the positions of dx with one remainder by the stride meet the same taps, the others none of them.
#pragma once

#include "cuda/copy.cuh"
#include "cuda/gemm_fma.cuh"
#include "cuda/window.cuh"
#include "ops/conv2d/conv2d.h"

namespace lamella::device {

// Those of all products, and one for few filters, as first and last convolutions have.
using ConvolutionTiles = gemm::TileList<gemm::FmaTile<4, 2, 8, 8, 4, 2, 90>,   // 128 x 128
                                        gemm::FmaTile<4, 1, 8, 8, 4, 4, 85>,   // 128 x 64
                                        gemm::FmaTile<4, 1, 8, 4, 4, 5, 70>,   // 128 x 32
                                        gemm::FmaTile<2, 2, 8, 4, 4, 4, 75>,   // 64 x 64
                                        gemm::FmaTile<2, 2, 4, 4, 4, 6, 60>>;  // 32 x 64

// One axis of a gather: result i reads, through slot s, position i * step + first + s * delta,
// where that lies in [0, size), and slot s is the kernel's tap tap + s * tap_step. Result i is
// position result + i * result_step of what is written.
struct GatherAxis {
  int size, step, first, delta;
  int slots, tap, tap_step;
  int results, result, result_step;
};

struct GatherAxes {
  GatherAxis h, w;
  int slots() const { return h.slots * w.slots; }
};

// Positions on both axes in one register, of results from 0 on. One that is `outside` stays so
// through all slots.
struct PackedPlaces {
  int w_bits;
  unsigned outside;
  bool fit;

  explicit PackedPlaces(const GatherAxes& axes) {
    const auto bits = [](std::int64_t value) {
      int count = 1;
      while (value >> count != 0) ++count;
      return count;
    };
    const GatherAxis& h = axes.h;
    const std::int64_t slots_reach = std::int64_t{h.slots - 1} * (h.delta < 0 ? -h.delta : h.delta);
    const std::int64_t last = std::int64_t{h.results - 1} * h.step;
    const std::int64_t beyond = larger<std::int64_t>(last, h.size - h.first + slots_reach);
    w_bits = bits(std::int64_t{axes.w.results - 1} * axes.w.step);
    fit = w_bits < 32 && bits(beyond) + w_bits <= 32;
    outside = fit ? static_cast<unsigned>(beyond) << w_bits : 0;
  }

  __device__ unsigned pack(int h, int w) const {
    return static_cast<unsigned>(h) << w_bits | static_cast<unsigned>(w);
  }
  __device__ int h(unsigned place) const { return static_cast<int>(place >> w_bits); }
  __device__ int w(unsigned place) const { return static_cast<int>(place & ((1u << w_bits) - 1u)); }
};

// Element (row, k): row is a pixel of the result, k is (slot, channel of the group).
template <class T>
struct Gather {
  const T* image;
  GatherAxes axes;
  PackedPlaces places;
  int channels, group_channels;
  std::int64_t rows;
  Divisor image_rows, row_rows;  // results of an image, of a row
  Divisor group, row_slots;      // channels of a slot, slots of a row

  Gather(const T* image_, const GatherAxes& axes_, std::int64_t batch, std::int64_t channels_,
         std::int64_t groups)
      : image(image_),
        axes(axes_),
        places(axes_),
        channels(static_cast<int>(channels_)),
        group_channels(static_cast<int>(channels_ / groups)),
        rows(batch * axes_.h.results * axes_.w.results),
        image_rows(std::int64_t{axes_.h.results} * axes_.w.results),
        row_rows(axes_.w.results),
        group(channels_ / groups),
        row_slots(larger(axes_.w.slots, 1)) {}

  std::int64_t depth() const { return std::int64_t{axes.h.slots} * axes.w.slots * group_channels; }

  // Of a row: its image, and what is added on either axis to where result 0 reads.
  struct Place {
    std::int64_t n;
    int h, w;
  };
  __device__ Place place(std::int64_t row) const {
    const std::int64_t n = image_rows.divide(row);
    const int inner = static_cast<int>(row - n * image_rows.value());
    const int y = row_rows.divide_small(inner);
    return {n, y * axes.h.step, (inner - y * axes.w.results) * axes.w.step};
  }

  // A thread copies elements of one k and of every (threads / depth)-th row: neighbouring lanes
  // neighbouring channels. What is the same for all steps of a slot is computed once for it. A
  // block has one product only, one group's.
  template <class Layout, int threads>
  class Loader {
   public:
    __device__ Loader(const Gather& operand, std::int64_t row) : operand_(operand) {
      const Place tile = operand.place(row);
      const GatherAxes& axes = operand.axes;
      const std::int64_t image_size = std::int64_t{axes.h.size} * axes.w.size * operand.channels;
      const std::int64_t line = std::int64_t{axes.w.size} * operand.channels;
      base_ = operand.image + tile.n * image_size + tile.h * line +
              std::int64_t{tile.w} * operand.channels;
#pragma unroll 1
      for (int i = 0; i < count; ++i) {
        Row& own = row_table(i);
        own = {operand.places.outside, 0};
        const std::int64_t r = row + first() + i * row_step;
        if (r >= operand.rows) continue;
        const Place at = operand.place(r);
        own.place = operand.places.pack(at.h, at.w);
        own.offset = static_cast<int>((at.n - tile.n) * image_size + (at.h - tile.h) * line +
                                      std::int64_t{at.w - tile.w} * operand.channels);
      }
    }

    __device__ void load(T* tile, std::int64_t product, std::int64_t k) {
      const int at = static_cast<int>(k) + lane();
      const int slot = operand_.group.divide_small(at);
      if (slot != slot_) enter(slot, static_cast<int>(product));
      const int from = slot_offset_ + at;
#pragma unroll 4
      for (int i = 0; i < count; ++i) {
        copy_async<sizeof(T)>(tile + Layout::at(first() + i * row_step, lane()),
                              base_ + (from + row_table(i).offset), (valid_ >> i & 1) != 0);
      }
    }

   private:
    static constexpr int depth = Layout::depth;
    static constexpr int row_step = threads / depth;
    static constexpr int count = Layout::rows / row_step;
    static_assert(threads % depth == 0 && Layout::rows % row_step == 0 && count <= 32);

    __device__ static int lane() { return static_cast<int>(threadIdx.x) % depth; }
    __device__ static int first() { return static_cast<int>(threadIdx.x) / depth; }

    // The thread's i-th row. In shared memory, as the sums want the registers.
    struct Row {
      unsigned place;
      int offset;  // of the place, from the tile's first one
    };
    __device__ static Row& row_table(int i) {
      __shared__ Row table[count * threads];
      return table[i * threads + static_cast<int>(threadIdx.x)];
    }

    __device__ void enter(int slot, int group) {
      slot_ = slot;
      valid_ = 0;
      const GatherAxes& axes = operand_.axes;
      const int row = operand_.row_slots.divide_small(slot);
      if (row >= axes.h.slots) return;
      const int h = axes.h.first + row * axes.h.delta;
      const int w = axes.w.first + (slot - row * axes.w.slots) * axes.w.delta;
      slot_offset_ =
          (h * axes.w.size + w) * operand_.channels + (group - slot) * operand_.group_channels;
#pragma unroll
      for (int i = 0; i < count; ++i) {
        const unsigned place = row_table(i).place;
        const auto at_h = static_cast<unsigned>(operand_.places.h(place) + h);
        const auto at_w = static_cast<unsigned>(operand_.places.w(place) + w);
        const bool inside =
            at_h < static_cast<unsigned>(axes.h.size) && at_w < static_cast<unsigned>(axes.w.size);
        valid_ |= static_cast<unsigned>(inside) << i;
      }
    }

    const Gather& operand_;
    const T* base_;  // the place of the tile's first row
    int slot_ = -1;
    int slot_offset_ = 0;  // from the place to channel 0 of slot 0, as if slots were neighbours
    unsigned valid_ = 0;
  };
};

// Element (row, k) of group g: row is a channel of the group, k is (slot, filter of the group).
template <class T>
struct TurnedKernel {
  const T* kernel;  // (taps, channels of a group, filters)
  GatherAxes axes;
  int row_taps, group_channels, filters, group_filters;
  Divisor group, row_slots;

  TurnedKernel(const T* kernel_, const conv2d::Problem& p, const GatherAxes& axes_)
      : kernel(kernel_),
        axes(axes_),
        row_taps(static_cast<int>(p.width.kernel)),
        group_channels(static_cast<int>(p.channels / p.groups)),
        filters(static_cast<int>(p.filters)),
        group_filters(static_cast<int>(p.filters / p.groups)),
        group(p.filters / p.groups),
        row_slots(larger(axes_.w.slots, 1)) {}

  template <class Layout, int threads>
  class Loader {
   public:
    __device__ Loader(const TurnedKernel& operand, std::int64_t row)
        : operand_(operand),
          from_(operand.kernel + (row + first()) * operand.filters),
          rows_left_(operand.group_channels - static_cast<int>(row)) {}

    __device__ void load(T* tile, std::int64_t product, std::int64_t k) {
      const GatherAxes& axes = operand_.axes;
      const int at = static_cast<int>(k) + lane();
      const int slot = operand_.group.divide_small(at);
      const int row = operand_.row_slots.divide_small(slot);
      const int column = slot - row * axes.w.slots;
      const int tap = (axes.h.tap + row * axes.h.tap_step) * operand_.row_taps + axes.w.tap +
                      column * axes.w.tap_step;
      const T* from = from_ + std::int64_t{tap} * operand_.group_channels * operand_.filters +
                      product * operand_.group_filters + (at - slot * operand_.group_filters);
      const int rows = row < axes.h.slots ? rows_left_ : 0;
#pragma unroll
      for (int i = 0; i < Layout::rows; i += row_step) {
        copy_async<sizeof(T)>(tile + Layout::at(first() + i, lane()), from, first() + i < rows);
        from += std::int64_t{row_step} * operand_.filters;
      }
    }

   private:
    static constexpr int row_step = threads / Layout::depth;
    static_assert(threads % Layout::depth == 0 && Layout::rows % row_step == 0);

    __device__ static int lane() { return static_cast<int>(threadIdx.x) % Layout::depth; }
    __device__ static int first() { return static_cast<int>(threadIdx.x) / Layout::depth; }

    const TurnedKernel& operand_;
    const T* from_;
    int rows_left_;
  };
};

// Element (row, k): row is (tap, channel of the group), k is a pixel of the result: fewer than
// 2^31.
template <class T>
struct Patches {
  const T* image;
  GatherAxes axes;
  int channels, group_channels, rows, pixels;
  Divisor image_pixels, row_pixels;  // of results
  Divisor group, row_slots;
  bool vectors;  // 4 neighbouring channels in one copy

  Patches(const T* image_, const GatherAxes& axes_, std::int64_t batch, std::int64_t channels_,
          std::int64_t groups, bool vectors_)
      : image(image_),
        axes(axes_),
        channels(static_cast<int>(channels_)),
        group_channels(static_cast<int>(channels_ / groups)),
        rows(axes_.slots() * group_channels),
        pixels(static_cast<int>(batch * axes_.h.results * axes_.w.results)),
        image_pixels(std::int64_t{axes_.h.results} * axes_.w.results),
        row_pixels(axes_.w.results),
        group(channels_ / groups),
        row_slots(axes_.w.slots),
        vectors(vectors_) {}

  // A thread's rows are the same in every step, its pixels are not.
  template <class Layout, int threads>
  class Loader {
   public:
    __device__ Loader(const Patches& operand, std::int64_t row) : operand_(operand) {
      const int width = operand.vectors ? 4 : 1;
      const int across = Layout::rows / width;
      row_ = static_cast<int>(threadIdx.x) % across * width;
      k_ = static_cast<int>(threadIdx.x) / across;
      const int at = static_cast<int>(row) + row_;
      const int slot = operand.group.divide_small(at);
      const int slot_row = operand.row_slots.divide_small(slot);
      const int slot_column = slot - slot_row * operand.axes.w.slots;
      h_ = at < operand.rows ? slot_row * operand.axes.h.delta + operand.axes.h.first : outside;
      w_ = slot_column * operand.axes.w.delta + operand.axes.w.first;
      from_ = operand.image + (at - slot * operand.group_channels);
    }

    __device__ void load(T* tile, std::int64_t product, std::int64_t k) const {
      if (operand_.vectors) {
        copy<4>(tile, product, k);
      } else {
        copy<1>(tile, product, k);
      }
    }

   private:
    static constexpr int outside = -(1 << 30);

    template <int width>
    __device__ void copy(T* tile, std::int64_t product, std::int64_t k) const {
      constexpr int across = Layout::rows / width;
      constexpr int k_step = threads / across;
      static_assert(threads % across == 0);
      const GatherAxes& axes = operand_.axes;
      const T* const from = from_ + product * operand_.group_channels;
#pragma unroll(width == 1 ? 2 : 8)
      for (int i = 0; i < Layout::depth; i += k_step) {
        if (Layout::depth % k_step != 0 && k_ + i >= Layout::depth) break;
        const int pixel = static_cast<int>(k) + k_ + i;
        const int n = operand_.image_pixels.divide_small(pixel);
        const int inner = pixel - n * static_cast<int>(operand_.image_pixels.value());
        const int y = operand_.row_pixels.divide_small(inner);
        const int x = inner - y * axes.w.results;
        const int h = y * axes.h.step + h_;
        const int w = x * axes.w.step + w_;
        const bool inside = static_cast<unsigned>(h) < static_cast<unsigned>(axes.h.size) &&
                            static_cast<unsigned>(w) < static_cast<unsigned>(axes.w.size) &&
                            pixel < operand_.pixels;
        const std::int64_t at = (std::int64_t{n} * axes.h.size + h) * axes.w.size + w;
        copy_async<width * sizeof(T)>(tile + Layout::at(row_, k_ + i),
                                      from + at * operand_.channels, inside);
      }
    }

    const Patches& operand_;
    const T* from_;
    int row_, k_;
    int h_, w_;
  };
};

}  // namespace lamella::device
