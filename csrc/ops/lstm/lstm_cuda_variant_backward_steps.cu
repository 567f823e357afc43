// All steps of the variant's backward pass in one launch (recurrent/geometry.h). Blocks of a group
// exchange, a step: with a projection their parts of the gradient of every output in front of it,
// which the owner of a unit adds up; the sums over rows of what was normalized; and their parts of
// the gradient of h. A block alone exchanges nothing.
#include "ops/lstm/lstm_cuda_variant_backward.cuh"
#include "ops/lstm/lstm_cuda_variant_steps.cuh"

namespace lamella::lstm {
namespace {

using recurrent::Exchange;
using recurrent::Geometry;
using recurrent::Place;

// Where the blocks of a launch exchange.
struct Parts {
  float* of_state;     // (N, owner, block, slice of h)
  float* of_output;    // (N, owner, block, slice of units)
  float* of_cell;      // (N, block, 2)
  float* of_products;  // (N, block, 4)
};

// What this block found for all columns of a product, to the owners of slices of `each` columns.
template <class Tile>
__device__ void hand_out(const float* sums, const Geometry& g, int width, int sums_stride,
                         std::int64_t first_row, int rows, int slice, int each, float* to) {
  const int quads = g.slices * each / 4;
  for (int i = static_cast<int>(threadIdx.x); i < rows * quads; i += static_cast<int>(blockDim.x)) {
    const int row = i / quads;
    const int column = (i - row * quads) * 4;
    float v[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      v[k] = tile_sum<Tile>(sums, width, g.warps, sums_stride, row, column + k);
    }
    const int owner = column / each;
    const std::int64_t at = ((first_row + row) * g.slices + owner) * g.slices + slice;
    __stcg(reinterpret_cast<float4*>(to + at * each + (column - owner * each)),
           make_float4(v[0], v[1], v[2], v[3]));
  }
}

// The parts of all blocks in their order.
__device__ inline float collect(const float* parts, int slices, std::int64_t row, int slice,
                                int each, int column) {
  const float* const from = parts + (row * slices + slice) * slices * each + column;
  float sum = 0.0f;
#pragma unroll 4
  for (int s = 0; s < slices; ++s) sum += __ldcg(from + s * each);
  return sum;
}

// means[row][count] = sums over the group of values(row, i, to) / total; all threads.
template <int count, class Values>
__device__ void group_means(const Values& values, int rows, int own, std::int64_t total,
                            Exchange& exchange, float* parts, std::int64_t first_row, int slice,
                            int slices, float* means) {
  const float share = 1.0f / static_cast<float>(total);
  const int warps = static_cast<int>(blockDim.x) / gpu::warp_size;
  for (int row = gpu::warp_index(); row < rows; row += warps) {
    float sums[count] = {};
    for (int i = gpu::lane_index(); i < own; i += gpu::warp_size) values(row, i, sums);
#pragma unroll
    for (int k = 0; k < count; ++k) sums[k] = gpu::warp_sum(sums[k]);
    if (gpu::lane_index() > 0) continue;
#pragma unroll
    for (int k = 0; k < count; ++k) {
      if (slices == 1) {
        means[row * count + k] = sums[k] * share;
      } else {
        __stcg(parts + ((first_row + row) * slices + slice) * count + k, sums[k]);
      }
    }
  }
  if (slices > 1) {
    exchange.arrive();
    exchange.wait();
    for (int i = static_cast<int>(threadIdx.x); i < rows * count;
         i += static_cast<int>(blockDim.x)) {
      const int row = i / count;
      const float* const from = parts + (first_row + row) * slices * count + (i - row * count);
      float sum = 0.0f;
      for (int s = 0; s < slices; ++s) sum += __ldcg(from + s * count);
      means[i] = sum * share;
    }
  }
  __syncthreads();
}

struct BackwardShare {
  ProjectionShare p;  // slice: features of h of a block; terms: those of dz
  int state_width;    // columns of the product that gives the gradient of h
  int state_sums_stride;
  Parts parts;
};

template <class Tile>
__global__ void __launch_bounds__(recurrent::most_warps* gpu::warp_size, 1)
    variant_backward_steps(VariantBackward t, BackwardShare share, Geometry g) {
  constexpr int rows_most = Tile::rows;
  const ProjectionShare& p = share.p;
  const Variant& v = t.v;
  const int threads = static_cast<int>(blockDim.x);
  const int units = g.slice_units;
  float* const weights = gpu::dynamic_shared<float>();
  float* const projection = weights + g.weight_floats;
  float* const dz = projection + p.weight_floats;  // [row][gate][unit], then that of h's product
  float* const d_state = dz + rows_most * g.operand_stride;
  float* const dy = d_state + p.operand_floats;
  float* const cell_units = dy + rows_most * units;
  float* const cell_means = cell_units + rows_most * units;
  float* const product_means = cell_means + 2 * rows_most;
  float* const sums = product_means + 4 * rows_most;
  const int group = static_cast<int>(blockIdx.x) / g.slices;
  const int slice = static_cast<int>(blockIdx.x) - group * g.slices;
  const int first_unit = slice * units;
  const int first_feature = slice * p.slice;
  const std::int64_t first_row = static_cast<std::int64_t>(group) * g.group_rows;
  const bool projects = v.projection_kernel != nullptr;
  const bool normalizes_products = v.gamma_x != nullptr || v.gamma_h != nullptr;
  const int own_units = static_cast<int>(gpu::smaller<std::int64_t>(units, t.units - first_unit));
  // Both kernels transposed.
  for (int i = static_cast<int>(threadIdx.x); i < g.terms * share.state_width; i += threads) {
    const int column = i / g.terms;
    const int term = i - column * g.terms;
    const int gate = term / units;
    const int unit = term - gate * units;
    weights[term * share.state_width + column] =
        column < t.state_size && unit < own_units
            ? t.recurrent_kernel[column * 4 * t.units + gate * t.units + first_unit + unit]
            : 0.0f;
  }
  if (projects) {
    for (int i = static_cast<int>(threadIdx.x); i < p.slice * p.width; i += threads) {
      const int column = i / p.slice;
      const int feature = i - column * p.slice;
      const bool inside = column < t.units && first_feature + feature < t.state_size;
      projection[feature * p.width + column] =
          inside ? v.projection_kernel[column * t.state_size + first_feature + feature] : 0.0f;
    }
  }
  // Units and features that are none have no gradient.
  for (int i = static_cast<int>(threadIdx.x); i < rows_most * g.operand_stride + p.operand_floats;
       i += threads) {
    dz[i] = 0.0f;
  }
  __syncthreads();
  Exchange exchange(t.arrivals, group, g.slices);
  bool waits = false;
  for (std::int64_t j = t.steps.count - 1; j >= 0; --j) {
    const std::int64_t active = t.steps.active(j) - first_row;
    const int rows = static_cast<int>(active < 0              ? 0
                                      : active < g.group_rows ? active
                                                              : g.group_rows);
    if (waits) exchange.wait();
    waits = false;
    for (int i = static_cast<int>(threadIdx.x); i < rows * p.slice; i += threads) {
      const int row = i / p.slice;
      const int column = i - row * p.slice;
      const std::int64_t u = first_feature + column;
      if (u >= t.state_size) continue;
      const Place at(t.steps, j, first_row + row);
      float product = 0.0f;
      if (!at.last) {
        product = g.local()
                      ? tile_sum<Tile>(sums, share.state_width, g.warps, share.state_sums_stride,
                                       row, column)
                      : collect(share.parts.of_state, g.slices, at.row, slice, p.slice, column);
      }
      const float d = t.leave_state(at, u, product);
      if (projects) {
        t.d_projected[at.kept * t.state_size + u] = d;
        d_state[row * p.stride + column] = d;
      } else {
        dy[row * units + column] = d;
      }
    }
    __syncthreads();
    if (projects) {
      multiply_tile<Tile>(d_state, p.stride, projection, p.width, p.slice, g.warps, sums,
                          p.sums_stride);
      __syncthreads();
      if (!g.local()) {
        hand_out<Tile>(sums, g, p.width, p.sums_stride, first_row, rows, slice, units,
                       share.parts.of_output);
        exchange.arrive();
        exchange.wait();
      }
      for (int i = static_cast<int>(threadIdx.x); i < rows * units; i += threads) {
        const int row = i / units;
        const int unit = i - row * units;
        dy[i] = g.local()
                    ? tile_sum<Tile>(sums, p.width, g.warps, p.sums_stride, row, unit)
                    : collect(share.parts.of_output, g.slices, first_row + row, slice, units, unit);
      }
      __syncthreads();
    }
    const auto statistics_of = [&](const float* gamma, std::int64_t kept, Normalized which) {
      return RowStatistics::kept(
          gamma, t.statistics == nullptr ? nullptr : t.statistics + kept * statistics_floats,
          which);
    };
    for (int i = static_cast<int>(threadIdx.x); i < rows * units; i += threads) {
      const int row = i / units;
      const int unit = i - row * units;
      if (unit >= own_units) continue;
      const Place at(t.steps, j, first_row + row);
      const std::int64_t u = first_unit + unit;
      const auto found = t.output_back(at, u, dy[i], t.cells.cells[at.kept * t.padded + u],
                                       statistics_of(v.gamma_c, at.kept, of_c));
      dz[row * g.operand_stride + 3 * units + unit] = found.dz;
      dy[i] = found.dc;
      cell_units[i] = found.unit;
    }
    __syncthreads();
    if (v.gamma_c != nullptr) {
      group_means<2>(
          [&](int row, int i, float (&to)[2]) {
            const float d = dy[row * units + i];
            to[0] += d;
            to[1] = fmaf(d, cell_units[row * units + i], to[1]);
          },
          rows, own_units, t.units, exchange, share.parts.of_cell, first_row, slice, g.slices,
          cell_means);
    }
    for (int i = static_cast<int>(threadIdx.x); i < rows * units; i += threads) {
      const int row = i / units;
      const int unit = i - row * units;
      if (unit >= own_units) continue;
      const Place at(t.steps, j, first_row + row);
      float from_y = dy[i];
      if (v.gamma_c != nullptr) {
        // The mean and the variance take their part of every gradient back.
        from_y = fmaf(-cell_units[i], cell_means[2 * row + 1], from_y - cell_means[2 * row]) *
                 statistics_of(v.gamma_c, at.kept, of_c).inverse_deviation;
      }
      float d[3];
      t.gates_back(at, first_unit + unit, from_y, d);
#pragma unroll
      for (int gate = 0; gate < 3; ++gate) {
        dz[row * g.operand_stride + gate * units + unit] = d[gate];
      }
    }
    __syncthreads();
    if (normalizes_products) {
      group_means<4>(
          [&](int row, int i, float (&to)[4]) {
            const int gate = i / own_units;
            const int unit = i - gate * own_units;
            const std::int64_t kept = t.steps.kept(j, first_row + row);
            const std::int64_t k = gate * t.units + first_unit + unit;
            const std::int64_t at = kept * 4 * t.units + k;
            const float d = dz[row * g.operand_stride + gate * units + unit];
            if (v.gamma_h != nullptr) {
              const float scaled = d * v.gamma_h[k];
              to[0] += scaled;
              to[1] =
                  fmaf(scaled, statistics_of(v.gamma_h, kept, of_h).unit(t.h_product[at]), to[1]);
            }
            if (v.gamma_x != nullptr) {
              const float scaled = d * v.gamma_x[k];
              to[2] += scaled;
              to[3] =
                  fmaf(scaled, statistics_of(v.gamma_x, kept, of_x).unit(t.x_product[at]), to[3]);
            }
          },
          rows, 4 * own_units, 4 * t.units, exchange, share.parts.of_products, first_row, slice,
          g.slices, product_means);
    }
    for (int i = static_cast<int>(threadIdx.x); i < rows * 4 * units; i += threads) {
      const int row = i / (4 * units);
      const int column = i - row * 4 * units;
      const int gate = column / units;
      const int unit = column - gate * units;
      if (unit >= own_units) continue;
      const std::int64_t r = first_row + row;
      const bool begins = j + 1 >= t.steps.length_of(r);
      const std::int64_t kept = t.steps.kept(j, r);
      const std::int64_t k = gate * t.units + first_unit + unit;
      const std::int64_t at = kept * 4 * t.units + k;
      const std::int64_t of_row = r * 4 * t.units + k;
      const float* const mean = product_means + 4 * row;
      float* const place = dz + row * g.operand_stride + column;
      const float d = *place;
      float dx = d;
      float dh = d;
      if (t.d_bias != nullptr) add_to(t.d_bias + of_row, begins, d);
      if (v.gamma_h != nullptr) {
        const RowStatistics of = statistics_of(v.gamma_h, kept, of_h);
        const float unit_h = of.unit(t.h_product[at]);
        if (t.d_gamma_h != nullptr) add_to(t.d_gamma_h + of_row, begins, d * unit_h);
        dh = fmaf(-unit_h, mean[1], d * v.gamma_h[k] - mean[0]) * of.inverse_deviation;
      }
      if (v.gamma_x != nullptr) {
        const RowStatistics of = statistics_of(v.gamma_x, kept, of_x);
        const float unit_x = of.unit(t.x_product[at]);
        if (t.d_gamma_x != nullptr) add_to(t.d_gamma_x + of_row, begins, d * unit_x);
        dx = fmaf(-unit_x, mean[3], d * v.gamma_x[k] - mean[2]) * of.inverse_deviation;
      }
      t.dx_product[at] = dx;
      if (normalizes_products) t.dh_product[at] = dh;
      *place = dh;
    }
    __syncthreads();
    if (j == 0 && t.dh0 == nullptr) continue;
    multiply_tile<Tile>(dz, g.operand_stride, weights, share.state_width, g.terms, g.warps, sums,
                        share.state_sums_stride);
    __syncthreads();
    if (g.local()) continue;
    hand_out<Tile>(sums, g, share.state_width, share.state_sums_stride, first_row, rows, slice,
                   p.slice, share.parts.of_state);
    exchange.arrive();
    waits = true;
  }
  if (waits) exchange.wait();
  const std::int64_t left = t.steps.batch - first_row;
  const int all_rows = static_cast<int>(left < g.group_rows ? left : g.group_rows);
  for (int i = static_cast<int>(threadIdx.x); i < all_rows * p.slice; i += threads) {
    const int row = i / p.slice;
    const int column = i - row * p.slice;
    const std::int64_t r = first_row + row;
    if (first_feature + column >= t.state_size) continue;
    float product = 0.0f;
    if (t.dh0 != nullptr && t.steps.length_of(r) > 0) {
      product = g.local() ? tile_sum<Tile>(sums, share.state_width, g.warps,
                                           share.state_sums_stride, row, column)
                          : collect(share.parts.of_state, g.slices, r, slice, p.slice, column);
    }
    t.end_state(r, first_feature + column, product);
  }
  for (int i = static_cast<int>(threadIdx.x); i < all_rows * own_units; i += threads) {
    const int row = i / own_units;
    t.end_unit(first_row + row, first_unit + (i - row * own_units));
  }
}

}  // namespace

bool launch_variant_backward(const recurrent::Sequence& q, const VariantBackward& task) {
  const std::int64_t batch = q.steps->batch();
  if (q.steps->packed_rows() == 0) return false;
  const recurrent::Problem problem = {batch, q.units, q.state_size, 4, 1, {4}};
  const recurrent::Chip chip = recurrent::this_chip();
  Geometry g = best_geometry(problem, chip, recurrent::backward_geometry);
  if (!g.fits()) return false;
  const recurrent::TileSize tile = recurrent::tile_sizes[g.tile];
  const int rows = tile.rows();
  // A block's rows stay what they are for the whole sequence.
  if (g.group_rows > rows) return false;
  using recurrent::detail::bank_stride;
  using recurrent::detail::round_up;
  const bool projects = task.v.projection_kernel != nullptr;
  BackwardShare share = {};
  ProjectionShare& p = share.p;
  p.slice = projects ? static_cast<int>(round_up((q.state_size + g.slices - 1) / g.slices, 4))
                     : g.slice_units;
  share.state_width = static_cast<int>(round_up(std::int64_t{g.slices} * p.slice, tile.columns()));
  share.state_sums_stride = share.state_width + 4;
  p.sums_floats =
      sums_floats(rows, share.state_width, tile.columns(), g.warps, share.state_sums_stride);
  if (projects) {
    p.width = static_cast<int>(round_up(std::int64_t{g.slices} * g.slice_units, tile.columns()));
    p.stride = bank_stride(p.slice);
    p.sums_stride = p.width + 4;
    p.weight_floats = p.slice * p.width;
    p.operand_floats = rows * p.stride;
    const int more = sums_floats(rows, p.width, tile.columns(), g.warps, p.sums_stride);
    if (more > p.sums_floats) p.sums_floats = more;
  }
  g.weight_floats = static_cast<std::size_t>(g.terms) * share.state_width;
  g.operand_floats +=
      static_cast<std::size_t>(p.weight_floats + p.operand_floats + rows * (2 * g.slice_units + 6));
  g.sums_floats = static_cast<std::size_t>(p.sums_floats);
  if (g.shared_bytes() > chip.shared_bytes) return false;
  const std::int64_t pairs = g.local() ? 0 : batch * g.slices * g.slices;
  const std::int64_t of_row = g.local() ? 0 : batch * g.slices;
  const Scratch<float> parts(q.op, pairs * (p.slice + g.slice_units) + of_row * 6);
  share.parts.of_state = parts.get();
  share.parts.of_output = share.parts.of_state + pairs * p.slice;
  share.parts.of_cell = share.parts.of_output + pairs * g.slice_units;
  share.parts.of_products = share.parts.of_cell + of_row * 2;
  bool launched = false;
  recurrent::with_tile(g.tile, [&](auto shape) {
    launched =
        recurrent::launch_sequence(q.op, g, variant_backward_steps<decltype(shape)>, task, share);
  });
  return launched;
}

}  // namespace lamella::lstm
