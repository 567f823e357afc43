// max_pool2d: vectors of channels, one output pixel after the other. Forward reads each row of the
// image from memory once; backward gathers, so that it writes each element of dx once.
#include "ops/pool2d/pool2d_simd.h"
#include "simd/integer.h"

namespace lamella::LAMELLA_ISA {
namespace {

// How winners are kept: not at all, as tap numbers (bytes), as positions in the image (int32).
enum class Winner { none, tap, position };

LAMELLA_INLINE void put_bytes(std::uint8_t* p, Int a, WholeVector at) {
  store_bytes(p + at.i, a);
}
LAMELLA_INLINE void put_bytes(std::uint8_t* p, Int a, PartOfVector at) {
  store_bytes_n(p + at.i, a, at.n);
}
LAMELLA_INLINE Bytes get_bytes(const std::uint8_t* p, WholeVector at) {
  return load_bytes(p + at.i);
}
LAMELLA_INLINE Bytes get_bytes(const std::uint8_t* p, PartOfVector at) {
  return load_bytes_n(p + at.i, at.n);
}

template <Winner kind, class Place>
LAMELLA_INLINE void put_winner(std::uint8_t* winner, Float number, Place at) {
  if constexpr (kind == Winner::tap) {
    put_bytes(winner, bits(number), at);
  } else {
    at.put(reinterpret_cast<float*>(winner), number);
  }
}

// The numbers of a window's taps: that of the first one inside the image, and what a row and a
// column further add.
struct Numbering {
  std::int64_t base;
  std::int64_t row;
  std::int64_t column;
};

// One output pixel. image + origin is where the first tap inside lies; row_step and column_step are
// the floats from one tap to the next.
template <Winner kind, class Taps>
LAMELLA_INLINE void pool_pixel(const Taps& taps, const float* image, std::int64_t origin,
                               std::int64_t row_step, std::int64_t column_step,
                               std::int64_t channels, const Numbering& numbering, float* y,
                               std::uint8_t* winner) {
  for_vectors(0, channels, [&](auto at) {
    const auto value = [&](std::int64_t kh, std::int64_t kw) {
      return at.get(image + (origin + (kh - taps.row_begin) * row_step +
                             (kw - taps.column_begin) * column_step));
    };
    if constexpr (kind == Winner::none) {
      Float best = value(taps.row_begin, taps.column_begin);
      for (std::int64_t kh = taps.row_begin; kh < taps.row_end; ++kh) {
        for (std::int64_t kw = taps.column_begin; kw < taps.column_end; ++kw) {
          if (kh == taps.row_begin && kw == taps.column_begin) continue;
          const Float v = value(kh, kw);
          best = select(is_nan(v), v, max(v, best));
        }
      }
      at.put(y, best);
    } else {
      const auto number = [&](std::int64_t kh, std::int64_t kw) {
        return from_bits(set_int(
            static_cast<std::int32_t>(numbering.base + (kh - taps.row_begin) * numbering.row +
                                      (kw - taps.column_begin) * numbering.column)));
      };
      // Backwards, so that of equals and of NaNs the first one is left at the end.
      const std::int64_t last_row = taps.row_end - 1;
      const std::int64_t last_column = taps.column_end - 1;
      Float best = value(last_row, last_column);
      Float best_number = number(last_row, last_column);
      for (std::int64_t kh = last_row; kh >= taps.row_begin; --kh) {
        for (std::int64_t kw = last_column; kw >= taps.column_begin; --kw) {
          if (kh == last_row && kw == last_column) continue;
          const Float v = value(kh, kw);
          const Mask wins = less_equal(best, v) | is_nan(v);
          best = select(wins, v, best);
          best_number = select(wins, number(kh, kw), best_number);
        }
      }
      at.put(y, best);
      put_winner<kind>(winner, best_number, at);
    }
  });
}

template <Winner kind>
LAMELLA_INLINE void empty_pixel(std::int64_t channels, float* y, std::uint8_t* winner) {
  for_vectors(0, channels, [&](auto at) {
    at.put(y, set(-__builtin_inff()));
    if constexpr (kind != Winner::none) {
      const std::int32_t nowhere = kind == Winner::tap ? 255 : -1;
      put_winner<kind>(winner, from_bits(set_int(nowhere)), at);
    }
  });
}

// Pixels [begin, end) of output row `row` (of all images).
template <Winner kind>
void forward_piece(const PoolGeometry& g, const float* x, float* y, std::uint8_t* winner,
                   std::int64_t row, std::int64_t begin, std::int64_t end) {
  const std::int64_t channels = g.channels;
  const float* image = x + row / g.height.output * g.height.input * g.width.input * channels;
  const std::int64_t row_positions = tap_step(g.height) * g.width.input;
  const std::int64_t column_positions = tap_step(g.width);
  for_each_window(g, row, begin, end, [&](const auto& window) {
    const auto& taps = window.taps;
    const std::int64_t out = window.pixel * channels;
    std::uint8_t* winner_out = winner;
    if constexpr (kind != Winner::none) winner_out += kind == Winner::tap ? out : 4 * out;
    if (taps.row_begin == taps.row_end || taps.column_begin == taps.column_end) {
      return empty_pixel<kind>(channels, y + out, winner_out);
    }
    const std::int64_t position = window.row * g.width.input + window.column;
    const Numbering numbering =
        kind == Winner::tap
            ? Numbering{taps.row_begin * g.width.kernel + taps.column_begin, g.width.kernel, 1}
            : Numbering{position, row_positions, column_positions};
    pool_pixel<kind>(taps, image, position * channels, row_positions * channels,
                     column_positions * channels, channels, numbering, y + out, winner_out);
  });
}

void forward(const PoolGeometry& g, const float* x, float* y, std::uint8_t* winner) {
  const auto run = [&](auto piece) {
    parallel_rows(g.batch * g.height.output, g.width.output, window_floats(g),
                  [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
                    piece(g, x, y, winner, row, begin, end);
                  });
  };
  if (winner == nullptr) return run(forward_piece<Winner::none>);
  if (max_pool2d::winner_bytes(g) == 1) return run(forward_piece<Winner::tap>);
  run(forward_piece<Winner::position>);
}

// Pixels [begin, end) of row `row` of dx (of all images).
template <Winner kind>
void backward_piece(const PoolGeometry& g, const CoverTable& cover_rows,
                    const CoverTable& cover_columns, const float* dy, const std::uint8_t* winner,
                    float* dx, std::int64_t row, std::int64_t begin, std::int64_t end) {
  struct Source {
    std::int64_t offset;
    std::int32_t number;  // the winner's, if this position won
  };
  const std::int64_t first_row = row / g.height.input * g.height.output;
  const std::int64_t first_position = row % g.height.input * g.width.input;
  const auto source = [&](std::int64_t oh, std::int64_t ow, std::int64_t kh, std::int64_t kw) {
    // A position's column follows from its window's and the tap.
    const std::int64_t w = ow * g.width.stride - g.width.pad_before + kw * g.width.dilation;
    const std::int64_t number = kind == Winner::tap ? kh * g.width.kernel + kw : first_position + w;
    return Source{((first_row + oh) * g.width.output + ow) * g.channels,
                  static_cast<std::int32_t>(number)};
  };
  const auto value = [&](const Source& s, auto at) {
    Mask won;
    if constexpr (kind == Winner::tap) {
      won = equal(get_bytes(winner + s.offset, at), static_cast<std::uint8_t>(s.number));
    } else {
      const Float number = at.get(reinterpret_cast<const float*>(winner) + s.offset);
      won = equal(bits(number), set_int(s.number));
    }
    return select(won, at.get(dy + s.offset), zero());
  };
  gather_windows(g, cover_rows, cover_columns, row, begin, end, dx, source, value);
}

void backward(const PoolGeometry& g, const float* dy, const std::uint8_t* winner, float* dx) {
  const CoverTable rows = cover_table("max_pool2d", g.height);
  const CoverTable columns = cover_table("max_pool2d", g.width);
  const auto run = [&](auto piece) {
    parallel_rows(g.batch * g.height.input, g.width.input, g.channels,
                  [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
                    piece(g, rows, columns, dy, winner, dx, row, begin, end);
                  });
  };
  if (max_pool2d::winner_bytes(g) == 1) return run(backward_piece<Winner::tap>);
  run(backward_piece<Winner::position>);
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::max_pool2d::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::forward, kernel::backward};

}  // namespace lamella::max_pool2d::LAMELLA_ISA
