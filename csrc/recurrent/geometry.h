// How the blocks of a whole-sequence launch divide a recurrent op: a pure function of the problem
// and the device. Blocks that share sequences form a group; each owns a slice of units (all their
// gates) and keeps that part of the recurrent kernel in shared memory, and exchanges a step's
// results with its group through L2. A group of one block exchanges nothing. Groups divide the
// batch.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lamella::recurrent {

// The tiles of tile.cuh that exist: rows and columns of a lane.
struct TileSize {
  int rows_each, columns_each;
  constexpr int rows() const { return 4 * rows_each; }
  constexpr int columns() const { return 8 * columns_each; }
};
constexpr TileSize tile_sizes[] = {{1, 4}, {2, 4}, {4, 4}, {4, 8}};
constexpr int tile_count = 4;
constexpr int most_phases = 2;
constexpr int most_warps = 12;

struct Geometry {
  int tile = -1;  // index of tile_sizes; -1: no geometry keeps the weights on chip
  int warps = 0;
  int slices = 0;       // blocks of a group
  int slice_units = 0;  // units of a block, a multiple of 4
  int groups = 0;
  int group_rows = 0;
  int terms = 0;                 // of a product, padded to a multiple of 4
  int widths[most_phases] = {};  // columns of a phase's product, whole tiles
  int operand_stride = 0;        // floats between rows of the operand
  int sums_stride = 0;           // between rows of sums
  std::size_t weight_floats = 0, operand_floats = 0, sums_floats = 0;
  double clocks = 0.0;  // estimate of a step

  constexpr bool fits() const { return tile >= 0; }
  constexpr bool local() const { return slices == 1; }
  constexpr int blocks() const { return slices * groups; }
  // Forward the sums take the operand's place, unless the next operand is written while they are
  // read.
  bool shares_memory = false;
  constexpr std::size_t shared_bytes() const {
    const std::size_t larger = operand_floats > sums_floats ? operand_floats : sums_floats;
    return sizeof(float) *
           (weight_floats + (shares_memory ? larger : operand_floats + sums_floats));
  }
};

struct Problem {
  std::int64_t batch, units;
  std::int64_t state_size;  // features of h
  int gates;
  int phases;
  int phase_gates[most_phases];  // of each phase
};

struct Chip {
  int multiprocessors;
  std::size_t shared_bytes;  // of a block
};

namespace detail {

constexpr std::int64_t round_up(std::int64_t a, std::int64_t multiple) {
  return (a + multiple - 1) / multiple * multiple;
}

// Rows this far apart lie in different banks, four at a time.
constexpr int bank_stride(std::int64_t floats) {
  return static_cast<int>(floats % 8 == 0 ? floats + 4 : floats);
}

// Clocks of a multiprocessor for a product of a tile's rows: FMAs, or its reads of shared memory.
constexpr double product_clocks(const TileSize& tile, std::int64_t width, std::int64_t terms) {
  const double fmas = tile.rows_each * tile.columns_each;
  const double reads = tile.rows_each + tile.columns_each;
  const double tiles = static_cast<double>(width / tile.columns());
  return 1.2 * tiles * static_cast<double>(terms / 4) * (fmas > reads ? fmas : reads);
}

constexpr int warps_for(std::int64_t tiles) {
  for (int warps = 8; warps <= most_warps; ++warps) {
    if (tiles >= warps ? tiles % warps == 0 : warps % tiles == 0) return warps;
  }
  return 8;
}

// What a launch costs besides its products, in clocks: a barrier through L2, the latency of a
// step's pointwise part; L2 moves so many bytes a clock to one multiprocessor, and to all.
constexpr double barrier_clocks = 2200.0;
constexpr double point_clocks = 700.0;
constexpr double l2_bytes_one = 48.0;
constexpr double l2_bytes_all = 2000.0;

constexpr double traffic_clocks(double bytes, int blocks) {
  const double one = bytes / l2_bytes_one;
  const double all = bytes * blocks / l2_bytes_all;
  return one > all ? one : all;
}

// The geometry of `slice_units` and a tile, without its kind of memory and its costs.
constexpr Geometry divide(const Problem& p, const Chip& chip, int slice_units, int tile) {
  Geometry g;
  g.slice_units = slice_units;
  g.slices = static_cast<int>((p.units + slice_units - 1) / slice_units);
  if (g.slices > chip.multiprocessors) return g;
  const int rows = tile_sizes[tile].rows();
  // A block alone need not be resident with others; more than a few rows it takes in turn.
  const std::int64_t most = g.slices == 1 ? p.batch : chip.multiprocessors / g.slices;
  const std::int64_t wanted = (p.batch + rows - 1) / rows;
  const std::int64_t groups = wanted < most ? wanted : most;
  const std::int64_t group_rows = groups > 0 ? (p.batch + groups - 1) / groups : 0;
  g.group_rows = static_cast<int>(group_rows);
  g.groups = static_cast<int>(group_rows > 0 ? (p.batch + group_rows - 1) / group_rows : 0);
  g.tile = tile;
  return g;
}

}  // namespace detail

// (rows, U) (U, gates * slice) a step.
constexpr Geometry forward_geometry(const Problem& p, const Chip& chip, int slice_units, int tile) {
  using namespace detail;
  const TileSize size = tile_sizes[tile];
  Geometry g = divide(p, chip, slice_units, tile);
  if (!g.fits()) return g;
  g.terms = static_cast<int>(round_up(p.state_size, 4));
  g.operand_stride = bank_stride(g.terms);
  std::int64_t width = 0, widest = 0;
  for (int i = 0; i < p.phases; ++i) {
    const std::int64_t w = round_up(std::int64_t{p.phase_gates[i]} * slice_units, size.columns());
    g.widths[i] = static_cast<int>(w);
    width += w;
    if (w > widest) widest = w;
  }
  g.warps = warps_for(g.widths[0] / size.columns());
  g.sums_stride = static_cast<int>(widest + (slice_units < 32 ? slice_units % 32 : 0));
  const std::int64_t rows = size.rows();
  g.weight_floats = static_cast<std::size_t>(width * g.terms);
  g.operand_floats = static_cast<std::size_t>(rows * g.operand_stride);
  int along = 1;
  for (int i = 0; i < p.phases; ++i) {
    const int tiles = g.widths[i] / size.columns();
    const int shares = tiles >= g.warps ? 1 : g.warps / tiles;
    if (shares > along) along = shares;
  }
  g.sums_floats = static_cast<std::size_t>(rows * g.sums_stride * along);
  g.shares_memory = !g.local() && widest / size.columns() <= g.warps;
  const double tiles = static_cast<double>((g.group_rows + rows - 1) / rows);
  const double product = product_clocks(size, width, g.terms);
  const double sums = static_cast<double>(2 * rows * width * along) / 32.0;
  const double moved = static_cast<double>(g.group_rows * p.state_size * 4 * p.phases);
  g.clocks = tiles * (product + sums + point_clocks * p.phases);
  if (!g.local()) g.clocks += barrier_clocks * p.phases + traffic_clocks(moved, g.blocks());
  return g;
}

// (rows, gates * slice) (gates * slice, U) a step, of which each block of the group has a part.
constexpr Geometry backward_geometry(const Problem& p, const Chip& chip, int slice_units,
                                     int tile) {
  using namespace detail;
  const TileSize size = tile_sizes[tile];
  Geometry g = divide(p, chip, slice_units, tile);
  if (!g.fits()) return g;
  g.terms = p.gates * slice_units;
  g.operand_stride = bank_stride(g.terms);
  const std::int64_t width = round_up(std::int64_t{g.slices} * slice_units, size.columns());
  g.widths[0] = g.widths[1] = static_cast<int>(width);
  const int tiles = static_cast<int>(width / size.columns());
  g.warps = warps_for(tiles);
  const int along = tiles >= g.warps ? 1 : g.warps / tiles;
  const std::int64_t rows = size.rows();
  g.sums_stride = static_cast<int>(width + (slice_units < 32 ? slice_units % 32 : 0));
  g.weight_floats = static_cast<std::size_t>(width * g.terms);
  g.operand_floats = static_cast<std::size_t>(rows * g.operand_stride);
  g.sums_floats =
      g.local() || along > 1 ? static_cast<std::size_t>(rows * g.sums_stride * along) : 0;
  const double turns = static_cast<double>((g.group_rows + rows - 1) / rows);
  const double product = product_clocks(size, width, g.terms);
  const double sums = along > 1 ? static_cast<double>(2 * rows * width * along) / 32.0 : 0.0;
  const double moved = static_cast<double>(2 * g.group_rows * width * 4 * p.phases);
  g.clocks = turns * (product + sums + point_clocks * p.phases);
  if (!g.local()) g.clocks += barrier_clocks * p.phases + traffic_clocks(moved, g.blocks());
  return g;
}

// A step as products of its own and a pointwise kernel each (recurrent/forward.cuh): launches, and
// FMAs at a rate that a large product reaches.
constexpr double launched_clocks(const Problem& p, const Chip& chip) {
  const double fmas =
      static_cast<double>(p.batch * p.state_size) * static_cast<double>(p.gates * p.units);
  return 8000.0 * p.phases + fmas / (128.0 * 0.55 * chip.multiprocessors);
}

// The quickest that fits; none where the weights are too large, or steps launched one by one are
// quicker.
constexpr Geometry best_geometry(const Problem& p, const Chip& chip,
                                 Geometry (*geometry)(const Problem&, const Chip&, int, int)) {
  // Kernels hold rows and columns in 32 bits; what is larger is no case for one launch.
  Geometry best;
  if (p.units > (1 << 14) || p.state_size > (1 << 14) || p.batch > (1 << 24)) return best;
  const int all = static_cast<int>(detail::round_up(p.units, 4));
  for (int units = 4; units <= all; units += 4) {
    if (units > 128 && units != all) continue;
    for (int tile = 0; tile < tile_count; ++tile) {
      const Geometry g = geometry(p, chip, units, tile);
      if (!g.fits() || g.shared_bytes() > chip.shared_bytes) continue;
      // The block that owns everything takes its rows in one tile.
      if (g.local() && g.group_rows > tile_sizes[tile].rows()) continue;
      if (!best.fits() || g.clocks < best.clocks) best = g;
    }
  }
  return best.clocks < launched_clocks(p, chip) ? best : Geometry{};
}

}  // namespace lamella::recurrent
