// Which tile a product gets, and into how many splits its steps along k go: a pure function of the
// sizes and the device.
#pragma once

#include <cstdint>

namespace lamella::device::gemm {

// What the choice needs to know of a tile.
struct TileCost {
  int m, n, depth, threads, blocks;
  double rate;  // FMAs a clock of a full multiprocessor
};

struct Plan {
  int tile = 0;
  int splits = 1;
  std::int64_t split_steps = 0;  // of one split
};

namespace detail {

constexpr std::int64_t parts(std::int64_t size, std::int64_t part) {
  return (size + part - 1) / part;
}

// Clocks from the first block to the last: multiprocessors take blocks as they finish others.
constexpr double clocks(const TileCost& tile, std::int64_t blocks, std::int64_t steps,
                        int multiprocessors) {
  constexpr double l2_bytes = 40;    // a clock and multiprocessor
  constexpr double start_up = 1500;  // first copies, last stores
  const std::int64_t turns = parts(blocks, multiprocessors);
  const std::int64_t resident = turns < tile.blocks ? turns : tile.blocks;
  // Fewer than 8 warps leave latencies bare.
  const double warps = static_cast<double>(resident * tile.threads) / 32;
  const double filled = warps >= 8 ? 1.0 : (2 + warps) / 10;
  const double compute = static_cast<double>(tile.m) * tile.n * tile.depth / (tile.rate * filled);
  const double load = static_cast<double>(tile.m + tile.n) * tile.depth * 4 / l2_bytes;
  const double step = compute > load ? compute : load;
  return static_cast<double>(turns) * static_cast<double>(steps) * step +
         static_cast<double>(parts(turns, tile.blocks)) * start_up;
}

}  // namespace detail

// `products` results (m, n), each a sum over `k_total` terms that is walked in steps of the tile's
// depth; for several products to a result the ends of each are rounded up: `steps(depth)`.
template <class Steps>
constexpr Plan plan(const TileCost* tiles, int count, std::int64_t m, std::int64_t n,
                    std::int64_t results, const Steps& steps, int multiprocessors) {
  constexpr int candidates[] = {1,  2,  3,  4,  5,  6,  8,   10,  12,  16,  20,
                                24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512};
  constexpr double second_kernel = 4000;  // clocks
  constexpr double copy_bytes = 16;       // a clock and multiprocessor
  constexpr std::int64_t fewest_steps = 16;
  Plan best;
  double least = -1;
  for (int i = 0; i < count; ++i) {
    const TileCost& tile = tiles[i];
    const std::int64_t all = steps(tile.depth);
    const std::int64_t blocks = detail::parts(m, tile.m) * detail::parts(n, tile.n) * results;
    for (const int splits : candidates) {
      if (splits > 1 && all < splits * fewest_steps) break;
      const std::int64_t each = detail::parts(all, splits);
      double cost = detail::clocks(tile, blocks * splits, each, multiprocessors);
      if (splits > 1) {
        const double partials = 8.0 * splits * static_cast<double>(results) *
                                static_cast<double>(m) * static_cast<double>(n);
        cost += second_kernel + partials / (copy_bytes * multiprocessors);
      }
      if (least < 0 || cost < least) {
        least = cost;
        // Rounding up may leave the last splits without steps.
        best = {i, static_cast<int>(each == 0 ? 1 : detail::parts(all, each)), each};
      }
    }
  }
  return best;
}

}  // namespace lamella::device::gemm
