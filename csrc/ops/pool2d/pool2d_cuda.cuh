// What the device pools share: the geometry as kernels see it, how rows of an image are laid over
// threads, and what is gathered from a window (a maximum and where it lies, or a sum).
//
// Every kernel is bound by memory: a thread works on V neighbouring channels, 4 of them (16 bytes)
// where the channels are a multiple of 4 and the arrays aligned.
#pragma once

#include "cuda/channels.cuh"
#include "cuda/window.cuh"
#include "ops/pool2d/pool2d.h"

namespace lamella::device {

// How winners are kept: not at all, as tap numbers (bytes), as positions in the image (int32).
enum class Winner { none, tap, position };

// The winners of V channels from element `at` on; 255 or -1 for none.
template <Winner kind, int V>
__device__ void store_winners(std::uint8_t* winner, std::int64_t at, const int (&number)[V]) {
  if constexpr (kind == Winner::tap && V == 4) {
    uchar4 bytes;
    bytes.x = static_cast<unsigned char>(number[0]);
    bytes.y = static_cast<unsigned char>(number[1]);
    bytes.z = static_cast<unsigned char>(number[2]);
    bytes.w = static_cast<unsigned char>(number[3]);
    *reinterpret_cast<uchar4*>(winner + at) = bytes;
  } else if constexpr (kind == Winner::tap) {
    for (int i = 0; i < V; ++i) winner[at + i] = static_cast<unsigned char>(number[i]);
  } else if constexpr (kind == Winner::position && V == 4) {
    *reinterpret_cast<int4*>(winner + 4 * at) =
        make_int4(number[0], number[1], number[2], number[3]);
  } else if constexpr (kind == Winner::position) {
    for (int i = 0; i < V; ++i) reinterpret_cast<int*>(winner)[at + i] = number[i];
  }
}

template <Winner kind, int V>
__device__ void load_winners(const std::uint8_t* winner, std::int64_t at, int (&number)[V]) {
  if constexpr (kind == Winner::tap && V == 4) {
    const uchar4 bytes = __ldg(reinterpret_cast<const uchar4*>(winner + at));
    number[0] = bytes.x, number[1] = bytes.y, number[2] = bytes.z, number[3] = bytes.w;
  } else if constexpr (kind == Winner::tap) {
    for (int i = 0; i < V; ++i) number[i] = winner[at + i];
  } else if constexpr (V == 4) {
    const int4 four = __ldg(reinterpret_cast<const int4*>(winner + 4 * at));
    number[0] = four.x, number[1] = four.y, number[2] = four.z, number[3] = four.w;
  } else {
    for (int i = 0; i < V; ++i) number[i] = reinterpret_cast<const int*>(winner)[at + i];
  }
}

struct Pool {
  Axis height;
  Axis width;
  std::int64_t batch;
  std::int64_t channels;
  bool count_include_pad;  // of averages

  Pool(const PoolGeometry& g, bool include)
      : height(g.height),
        width(g.width),
        batch(g.batch),
        channels(g.channels),
        count_include_pad(include) {}

  __device__ static std::int64_t count(const Axis& axis, std::int64_t output, bool include) {
    const WindowAxis& w = axis.window;
    const std::int64_t low = include ? -w.pad_before : 0;
    const std::int64_t high = include ? w.input + w.pad_after : w.input;
    return axis.taps_between(output, low, high).size();
  }
  // What each position of a window weighs in its average, 0 where none counts.
  __device__ float share(std::int64_t oh, std::int64_t ow) const {
    const float counted = static_cast<float>(count(height, oh, count_include_pad)) *
                          static_cast<float>(count(width, ow, count_include_pad));
    return counted == 0.0f ? 0.0f : 1.0f / counted;
  }
};

// A window's taps inside the image, numbered row by row, and where they lie.
struct Taps {
  Interval rows;
  Interval columns;
  std::int64_t row;  // of the first one, in the image
  std::int64_t column;
  __device__ std::int64_t count() const { return rows.size() * columns.size(); }

  __device__ Taps(const Pool& p, std::int64_t oh, std::int64_t ow)
      : Taps(p, oh, p.height.taps_inside(oh), ow) {}
  __device__ Taps(const Pool& p, std::int64_t oh, Interval rows_inside, std::int64_t ow)
      : rows(rows_inside), columns(p.width.taps_inside(ow)), row(0), column(0) {
    if (rows.size() == 0 || columns.size() == 0) return;
    row = p.height.start(oh) + rows.begin * p.height.window.dilation;
    column = p.width.start(ow) + columns.begin * p.width.window.dilation;
  }

  // How the winner numbered `number` here is kept.
  template <Winner kind>
  __device__ int winner(const Pool& p, int number) const {
    if (number == nowhere) return kind == Winner::tap ? 255 : -1;
    const int across = static_cast<int>(columns.size());
    const int down = number / across;
    const int right = number - down * across;
    if (kind == Winner::tap) {
      const int row_taps = static_cast<int>(p.width.window.kernel);
      return (static_cast<int>(rows.begin) + down) * row_taps + static_cast<int>(columns.begin) +
             right;
    }
    return static_cast<int>((row + down * p.height.step) * p.width.window.input + column +
                            right * p.width.step);
  }

  static constexpr int nowhere = 0x7FFFFFFF;
};

// The first of the largest values, where NaN is the largest.
template <Winner kind_, int V>
struct Maximum {
  static constexpr Winner kind = kind_;
  static constexpr int vector = V;
  static constexpr bool numbered = true;
  float value[V];
  int number[V];

  __device__ void clear() {
    for (int i = 0; i < V; ++i) {
      value[i] = __int_as_float(static_cast<int>(0xFF800000u));
      number[i] = Taps::nowhere;
    }
  }
  // A value that comes after those seen so far.
  __device__ void add(const float (&v)[V], int at) {
    for (int i = 0; i < V; ++i) {
      const bool first = kind != Winner::none && number[i] == Taps::nowhere;
      if (larger_than(v[i], value[i]) || first) {
        value[i] = v[i];
        number[i] = at;
      }
    }
  }
  __device__ void merge(const Maximum& other) {
    for (int i = 0; i < V; ++i) {
      const bool later = larger_than(value[i], other.value[i]) ||
                         (!larger_than(other.value[i], value[i]) && number[i] <= other.number[i]);
      value[i] = later ? value[i] : other.value[i];
      number[i] = later ? number[i] : other.number[i];
    }
  }
  __device__ void finish(const Pool& p, const Taps& taps, std::int64_t, std::int64_t,
                         std::int64_t at, float* y, std::uint8_t* winner) const {
    store_channels(y + at, value);
    if constexpr (kind != Winner::none) {
      int kept[V];
      for (int i = 0; i < V; ++i) kept[i] = taps.winner<kind>(p, number[i]);
      store_winners<kind>(winner, at, kept);
    }
  }

 private:
  __device__ static bool larger_than(float a, float b) { return a > b || (a != a && b == b); }
};

template <int V>
struct Average {
  static constexpr int vector = V;
  static constexpr bool numbered = false;
  float value[V];

  __device__ void clear() {
    for (int i = 0; i < V; ++i) value[i] = 0.0f;
  }
  __device__ void add(const float (&v)[V], int) {
    for (int i = 0; i < V; ++i) value[i] += v[i];
  }
  __device__ void merge(const Average& other) {
    for (int i = 0; i < V; ++i) value[i] += other.value[i];
  }
  __device__ void finish(const Pool& p, const Taps&, std::int64_t oh, std::int64_t ow,
                         std::int64_t at, float* y, std::uint8_t*) const {
    const float share = p.share(oh, ow);
    float scaled[V];
    for (int i = 0; i < V; ++i) scaled[i] = value[i] * share;
    store_channels(y + at, scaled);
  }
};

}  // namespace lamella::device
