// Kernel gradient where one tile holds all rows of the kernel, as with a 3x3 window on one channel.
// It reads the output gradient where it lies and nobody reads it again: the memory's latency, the
// activation's gradient and the bias' sums hide behind the multiply-adds.
#pragma once

#include "gemm/accumulators.h"
#include "ops/activation/activation_simd.h"
#include "ops/conv2d/conv2d.h"

namespace lamella::LAMELLA_ISA {

struct GradientTile {
  Tile tile;  // without b; its segments follow one another in dy
  const float* dy;
  const float* saved;   // by the activation; not read if that is linear
  std::int64_t stride;  // from a pixel of dy and saved to the next
  float* sums;          // (columns): of dz over pixels, to be added to; or null
};

using GradientTileKernel = void (*)(const GradientTile&);

namespace detail {

template <Kind kind, int rows, int vectors>
void run_gradient_tile(const GradientTile& g) {
  constexpr std::int64_t width = Float::width;
  const Tile& t = g.tile;
  Accumulators<rows, vectors> acc;
  acc.begin(t);
  Float total[vectors];
  for (Float& sum : total) sum = zero();
  const float* dy = g.dy;
  const float* saved = g.saved;
  for (std::int64_t s = 0; s < t.segment_count; ++s) {
    const Segment segment = t.segments[s];
    const float* a[rows];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) a[r] = t.a[r] + segment.a;
    for (std::int64_t k = 0, i = 0; k < segment.length; ++k, i += t.a_step, dy += g.stride) {
      Float dz[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        dz[v] = load(dy + v * width);
        if constexpr (kind == Kind::relu) {
          dz[v] = select(less(zero(), load(saved + v * width)), dz[v], zero());
        }
        total[v] = total[v] + dz[v];
      }
      if constexpr (kind == Kind::relu) saved += g.stride;
      acc.step(dz, [&](int r) { return a[r][i]; });
    }
  }
  acc.end(t);
  if (g.sums == nullptr) return;
  for (int v = 0; v < vectors; ++v) {
    store(g.sums + v * width, load(g.sums + v * width) + total[v]);
  }
}

template <Kind kind, int vectors>
GradientTileKernel gradient_tile_with_rows(std::int64_t rows) {
  switch (rows) {
    case 1:
      return run_gradient_tile<kind, 1, vectors>;
    case 2:
      return run_gradient_tile<kind, 2, vectors>;
    case 3:
      return run_gradient_tile<kind, 3, vectors>;
    case 4:
      return run_gradient_tile<kind, 4, vectors>;
    case 5:
      return run_gradient_tile<kind, 5, vectors>;
    case 6:
      return run_gradient_tile<kind, 6, vectors>;
    default:
      break;
  }
  if constexpr (max_tile_rows == 12) {
    switch (rows) {
      case 7:
        return run_gradient_tile<kind, 7, vectors>;
      case 8:
        return run_gradient_tile<kind, 8, vectors>;
      case 9:
        return run_gradient_tile<kind, 9, vectors>;
      case 10:
        return run_gradient_tile<kind, 10, vectors>;
      case 11:
        return run_gradient_tile<kind, 11, vectors>;
      case 12:
        return run_gradient_tile<kind, 12, vectors>;
      default:
        break;
    }
  }
  return nullptr;
}

}  // namespace detail

// Whether there is such a kernel: for the activations whose gradient is next to nothing, and whole
// vectors of filters.
LAMELLA_INLINE bool has_gradient_tile(Kind kind, std::int64_t columns) {
  return (kind == Kind::linear || kind == Kind::relu) && columns == 2 * Float::width;
}

// 1 <= rows <= max_tile_rows.
inline GradientTileKernel gradient_tile_kernel(Kind kind, std::int64_t rows) {
  return kind == Kind::relu ? detail::gradient_tile_with_rows<Kind::relu, 2>(rows)
                            : detail::gradient_tile_with_rows<Kind::linear, 2>(rows);
}

}  // namespace lamella::LAMELLA_ISA
