// All steps of the variant's forward pass in one launch (recurrent/geometry.h). Blocks of a group
// exchange, a step: their part of the statistics of h's product and of c', where those are
// normalized, the outputs in front of a projection, and h. A block alone exchanges nothing.
#include "ops/lstm/lstm_cuda_variant_forward.cuh"
#include "ops/lstm/lstm_cuda_variant_steps.cuh"

namespace lamella::lstm {
namespace {

using recurrent::Exchange;
using recurrent::Geometry;
using recurrent::Place;

// Mean and 1 / deviation of a row of `total` values, of which this block has `own` and each block
// of the group as many, the last one what is left: statistics[row][2]. Two passes, and over the
// blocks the same by their means. All threads; values(row, i).
template <class Values>
__device__ void group_statistics(const Values& values, int rows, int own, int each,
                                 std::int64_t total, float epsilon, Exchange& exchange,
                                 float* parts, std::int64_t first_row, int slice, int slices,
                                 float* statistics) {
  const int lane = gpu::lane_index();
  const int warps = static_cast<int>(blockDim.x) / gpu::warp_size;
  for (int row = gpu::warp_index(); row < rows; row += warps) {
    float sum = 0.0f;
    for (int i = lane; i < own; i += gpu::warp_size) sum += values(row, i);
    const float mean = gpu::warp_sum(sum) / static_cast<float>(own);
    float squares = 0.0f;
    for (int i = lane; i < own; i += gpu::warp_size) {
      const float d = values(row, i) - mean;
      squares = fmaf(d, d, squares);
    }
    squares = gpu::warp_sum(squares);
    if (lane > 0) continue;
    if (slices == 1) {
      statistics[2 * row] = mean;
      statistics[2 * row + 1] = 1.0f / sqrtf(squares / static_cast<float>(total) + epsilon);
    } else {
      float* const part = parts + ((first_row + row) * slices + slice) * 2;
      __stcg(reinterpret_cast<float2*>(part), make_float2(mean, squares));
    }
  }
  if (slices > 1) {
    exchange.arrive();
    exchange.wait();
    for (int row = static_cast<int>(threadIdx.x); row < rows; row += static_cast<int>(blockDim.x)) {
      const float2* const of_row =
          reinterpret_cast<const float2*>(parts + (first_row + row) * slices * 2);
      const auto size = [&](int s) {
        return static_cast<float>(s + 1 < slices ? each : total - std::int64_t{each} * s);
      };
      float mean = 0.0f;
      for (int s = 0; s < slices; ++s) mean = fmaf(size(s), __ldcg(of_row + s).x, mean);
      mean /= static_cast<float>(total);
      float squares = 0.0f;
      for (int s = 0; s < slices; ++s) {
        const float2 part = __ldcg(of_row + s);
        const float d = part.x - mean;
        squares += fmaf(size(s) * d, d, part.y);
      }
      statistics[2 * row] = mean;
      statistics[2 * row + 1] = 1.0f / sqrtf(squares / static_cast<float>(total) + epsilon);
    }
  }
  __syncthreads();
}

template <class Tile>
__global__ void __launch_bounds__(recurrent::most_warps* gpu::warp_size, 1)
    variant_forward_steps(VariantForward t, ProjectionShare p, Geometry g) {
  constexpr int rows_most = Tile::rows;
  const Variant& v = t.v;
  const int threads = static_cast<int>(blockDim.x);
  const int units = g.slice_units;
  const int width = g.widths[0];
  float* const weights = gpu::dynamic_shared<float>();
  float* const projection = weights + g.weight_floats;
  float* const operand = projection + p.weight_floats;
  float* const y_operand = operand + rows_most * g.operand_stride;
  float* const c_tile = y_operand + p.operand_floats;
  float* const o_tile = c_tile + rows_most * units;
  float* const products = o_tile + rows_most * units;  // of h: [row][gate][unit]
  float* const h_statistics = products + rows_most * 4 * units;
  float* const c_statistics = h_statistics + 2 * rows_most;
  float* const sums = c_statistics + 2 * rows_most;
  const int group = static_cast<int>(blockIdx.x) / g.slices;
  const int slice = static_cast<int>(blockIdx.x) - group * g.slices;
  const int first_unit = slice * units;
  const int first_feature = slice * p.slice;
  const std::int64_t first_row = static_cast<std::int64_t>(group) * g.group_rows;
  const bool projects = p.width > 0;
  // Units that are any.
  const int own_units = static_cast<int>(gpu::smaller<std::int64_t>(units, t.units - first_unit));
  load_columns(
      t.recurrent_kernel, t.state_size, 4 * t.units, g.terms, width,
      [&](int column) -> std::int64_t {
        const int gate = column / units;
        const int unit = column - gate * units;
        return gate < 4 && unit < own_units ? gate * t.units + first_unit + unit : -1;
      },
      weights);
  if (projects) {
    load_columns(
        v.projection_kernel, t.units, t.state_size, p.terms, p.width,
        [&](int column) -> std::int64_t {
          const int feature = first_feature + column;
          return column < p.slice && feature < t.state_size ? feature : -1;
        },
        projection);
  }
  // Of a block alone only features are written afterwards.
  for (int i = static_cast<int>(threadIdx.x); i < rows_most * g.operand_stride + p.operand_floats;
       i += threads) {
    operand[i] = 0.0f;
  }
  __syncthreads();
  Exchange exchange(t.arrivals, group, g.slices);
  for (std::int64_t j = 0; j < t.steps.count; ++j) {
    const std::int64_t active = t.steps.active(j) - first_row;
    const int rows = static_cast<int>(active < 0              ? 0
                                      : active < g.group_rows ? active
                                                              : g.group_rows);
    const bool product = j > 0 || t.h0 != nullptr;
    if (!g.local() && j > 0) exchange.wait();
    if (product) {
      if (!g.local() || j == 0) {
        recurrent::load_operand(
            g, rows, rows_most, t.state_size,
            [&](int row) -> const float* { return t.operand(j, first_row + row); }, operand);
      }
      __syncthreads();
      multiply_tile<Tile>(operand, g.operand_stride, weights, width, g.terms, g.warps, sums,
                          g.sums_stride);
      __syncthreads();
    }
    for (int i = static_cast<int>(threadIdx.x); i < rows * 4 * units; i += threads) {
      const int row = i / (4 * units);
      const int column = i - row * 4 * units;
      const float h =
          product ? tile_sum<Tile>(sums, width, g.warps, g.sums_stride, row, column) : 0.0f;
      products[i] = h;
      const int gate = column / units;
      const int unit = column - gate * units;
      if (v.gamma_h == nullptr || !t.keeps || unit >= own_units) continue;
      t.h_product[(t.steps.kept(j, first_row + row) * 4 + gate) * t.units + first_unit + unit] = h;
    }
    __syncthreads();
    if (v.gamma_h != nullptr) {
      group_statistics(
          [&](int row, int i) {
            const int gate = i / own_units;
            return products[(row * 4 + gate) * units + i - gate * own_units];
          },
          rows, 4 * own_units, 4 * units, 4 * t.units, v.epsilon, exchange, t.parts, first_row,
          slice, g.slices, h_statistics);
    }
    // Gates, c', and o.
    for (int i = static_cast<int>(threadIdx.x); i < rows * units; i += threads) {
      const int row = i / units;
      const int unit = i - row * units;
      if (unit >= own_units) continue;
      const std::int64_t u = first_unit + unit;
      const Place at(t.steps, j, first_row + row);
      const RowStatistics of_input = RowStatistics::kept(
          v.gamma_x, t.statistics == nullptr ? nullptr : t.statistics + at.kept * statistics_floats,
          of_x);
      const RowStatistics of_state = {h_statistics[2 * row], h_statistics[2 * row + 1]};
      float z[4];
#pragma unroll
      for (int gate = 0; gate < 4; ++gate) {
        const std::int64_t k = gate * t.units + u;
        const float h = products[(row * 4 + gate) * units + unit];
        z[gate] = t.x_product[at.kept * 4 * t.units + k];
        if (v.gamma_x != nullptr) {
          z[gate] =
              fmaf(v.gamma_x[k], of_input.unit(z[gate]), t.bias == nullptr ? 0.0f : t.bias[k]);
        }
        z[gate] =
            v.gamma_h != nullptr ? fmaf(v.gamma_h[k], of_state.unit(h), z[gate]) : z[gate] + h;
      }
      const auto found = t.step_cell(at, u, z);
      c_tile[i] = found.c;
      o_tile[i] = found.o;
    }
    __syncthreads();
    if (v.gamma_c != nullptr) {
      group_statistics([&](int row, int i) { return c_tile[row * units + i]; }, rows, own_units,
                       units, t.units, v.epsilon, exchange, t.parts + t.steps.batch * g.slices * 2,
                       first_row, slice, g.slices, c_statistics);
    }
    if (t.statistics != nullptr && slice == 0) {
      for (int row = static_cast<int>(threadIdx.x); row < rows; row += threads) {
        float* const kept = t.statistics + t.steps.kept(j, first_row + row) * statistics_floats;
        if (v.gamma_h != nullptr) {
          kept[2 * of_h] = h_statistics[2 * row];
          kept[2 * of_h + 1] = h_statistics[2 * row + 1];
        }
        if (v.gamma_c != nullptr) {
          kept[2 * of_c] = c_statistics[2 * row];
          kept[2 * of_c + 1] = c_statistics[2 * row + 1];
        }
      }
    }
    for (int i = static_cast<int>(threadIdx.x); i < rows * units; i += threads) {
      const int row = i / units;
      const int unit = i - row * units;
      if (unit >= own_units) continue;
      const std::int64_t u = first_unit + unit;
      const RowStatistics of = {c_statistics[2 * row], c_statistics[2 * row + 1]};
      const float y = t.output(u, c_tile[i], o_tile[i], of);
      if (!projects) {
        const float next = t.emit(Place(t.steps, j, first_row + row), u, y);
        if (g.local()) operand[row * g.operand_stride + u] = next;
      } else if (g.local()) {
        y_operand[row * p.stride + u] = y;
      } else {
        __stcg(t.y + (first_row + row) * t.padded + u, y);
      }
    }
    if (projects) {
      if (!g.local()) {
        exchange.arrive();
        exchange.wait();
        Geometry of_y = g;
        of_y.terms = p.terms;
        of_y.operand_stride = p.stride;
        recurrent::load_operand(
            of_y, rows, rows_most, t.units,
            [&](int row) -> const float* { return t.y + (first_row + row) * t.padded; }, y_operand);
      }
      __syncthreads();
      multiply_tile<Tile>(y_operand, p.stride, projection, p.width, p.terms, g.warps, sums,
                          p.sums_stride);
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < rows * p.slice; i += threads) {
        const int row = i / p.slice;
        const int column = i - row * p.slice;
        const std::int64_t u = first_feature + column;
        if (u >= t.state_size) continue;
        const float h = tile_sum<Tile>(sums, p.width, g.warps, p.sums_stride, row, column);
        const float next = t.emit(Place(t.steps, j, first_row + row), u, h);
        if (g.local()) operand[row * g.operand_stride + u] = next;
      }
    }
    __syncthreads();
    if (!g.local() && j + 1 < t.steps.count) exchange.arrive();
  }
}

}  // namespace

bool launch_variant_forward(const recurrent::Sequence& q, const VariantForward& task) {
  if (q.steps->packed_rows() == 0) return true;
  const recurrent::Problem problem = {q.steps->batch(), q.units, q.state_size, 4, 1, {4}};
  const recurrent::Chip chip = recurrent::this_chip();
  // That of an LSTM without variants, so that both compute the same.
  Geometry g = best_geometry(problem, chip, recurrent::forward_geometry);
  if (!g.fits()) return false;
  const recurrent::TileSize tile = recurrent::tile_sizes[g.tile];
  const int rows = tile.rows();
  // A block's rows stay what they are for the whole sequence.
  if (g.group_rows > rows) return false;
  using recurrent::detail::bank_stride;
  using recurrent::detail::round_up;
  ProjectionShare p = {};
  p.sums_floats = sums_floats(rows, g.widths[0], tile.columns(), g.warps, g.sums_stride);
  if (task.v.projection_kernel != nullptr) {
    p.slice = static_cast<int>(round_up((q.state_size + g.slices - 1) / g.slices, 4));
    p.width = static_cast<int>(round_up(p.slice, tile.columns()));
    p.terms = static_cast<int>(round_up(q.units, 4));
    p.stride = bank_stride(p.terms);
    p.sums_stride = p.width + 4;
    p.weight_floats = p.terms * p.width;
    p.operand_floats = rows * p.stride;
    const int more = sums_floats(rows, p.width, tile.columns(), g.warps, p.sums_stride);
    if (more > p.sums_floats) p.sums_floats = more;
  }
  g.shares_memory = false;
  g.operand_floats +=
      static_cast<std::size_t>(p.weight_floats + p.operand_floats + rows * (6 * g.slice_units + 4));
  g.sums_floats = static_cast<std::size_t>(p.sums_floats);
  if (g.shared_bytes() > chip.shared_bytes) return false;
  const Scratch<float> parts(q.op, g.local() ? 0 : 4 * q.steps->batch() * g.slices);
  VariantForward whole = task;
  whole.parts = parts.get();
  bool launched = false;
  recurrent::with_tile(g.tile, [&](auto shape) {
    launched =
        recurrent::launch_sequence(q.op, g, variant_forward_steps<decltype(shape)>, whole, p);
  });
  return launched;
}

}  // namespace lamella::lstm
