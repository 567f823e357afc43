// The forward pass of a recurrent op on the device: x W + b of all steps as one product, then the
// steps in one launch (geometry.h), each the product of h and the cell. Where the weights do not
// fit on chip, each step is a product and a pointwise kernel of their own.
//
// A Cell is a kernel parameter:
//   static constexpr int gates, phases      phases: products of h a step; a second one reads what
//                                           the cell made of the first
//   static constexpr bool separate          the product of h is not added to that of x
//   static constexpr int first_gate(phase)  the gates [first, end) of a phase's product
//   static constexpr int end_gate(phase)
//   struct Before                           what a step reads that does not wait for its product
//   Before before(task, place, u) const
//   float point(task, phase, place, u, z, q, before) const
//       From the gates z (values, or arguments), with `separate` the products q, either h after the
//       step or, in front of the last phase, what enters the next product. It leaves in z what is
//       kept of the phase's gates.
//   void carry(task, n, u) const            of a sequence without steps
#pragma once

#include "cuda/launch.cuh"
#include "recurrent/exchange.cuh"
#include "recurrent/gates.cuh"
#include "recurrent/geometry.h"
#include "recurrent/sequence.cuh"
#include "recurrent/tile.cuh"

namespace lamella::recurrent {

struct ForwardTask {
  StepsView steps;
  std::int64_t units;
  std::int64_t padded;            // floats of a row of states
  const float* recurrent_kernel;  // (U, gates * U)
  const float* recurrent_bias;    // (gates * U) or null
  const float* h0;                // (N,U) or null
  const float* h_scale;           // likewise
  float* gates;                   // (rows, gates * U): x W + b, then what the cell leaves
  bool keeps;                     // states and second have kept rows; else two, and one, a row
  float* states;
  float* second;
  float* outputs;  // (N,T,U)
  float* h;        // (N,U)
  unsigned* arrivals;

  __device__ float* operand(std::int64_t j, std::int64_t row) const {
    return states + (keeps ? steps.kept(j, row) : j % 2 * steps.batch + row) * padded;
  }
  __device__ float* second_row(const Place& at) const {
    return second + (keeps ? at.kept : at.row) * padded;
  }
  __device__ float scaled(float value, std::int64_t n, std::int64_t u) const {
    return h_scale == nullptr ? value : value * h_scale[n * units + u];
  }
  // h before the step.
  __device__ float h_before(const Place& at, std::int64_t u) const {
    if (at.j > 0) return outputs[at.output_before * units + u];
    return h0 == nullptr ? 0.0f : h0[at.n * units + u];
  }
  // Whether the first phase of step j has a product at all.
  __device__ bool multiplies(std::int64_t j, int phase) const {
    return j > 0 || phase > 0 || h0 != nullptr;
  }
};

// A unit of a row at a step: loaded before its products are there, then finished.
template <class Cell>
struct ForwardItem {
  bool valid;
  Place at;
  std::int64_t u;
  float z[Cell::gates];
  float scale;
  typename Cell::Before before;

  __device__ ForwardItem(const ForwardTask& t, const Cell& cell, int phase, std::int64_t j,
                         std::int64_t row, std::int64_t unit, bool is_valid)
      : valid(is_valid), at(t.steps, j, is_valid ? row : 0), u(unit) {
    if (!valid) return;
    const float* const z_row = t.gates + at.kept * Cell::gates * t.units + u;
#pragma unroll
    for (int g = 0; g < Cell::gates; ++g) z[g] = z_row[g * t.units];
    scale = t.h_scale == nullptr ? 1.0f : t.h_scale[at.n * t.units + u];
    before = cell.before(t, phase, at, u);
  }

  // product(gate): of the phase's gates. Gives what the next product reads of this unit.
  template <class Product>
  __device__ float finish(const ForwardTask& t, const Cell& cell, int phase,
                          const Product& product) {
    float q[Cell::gates] = {};
#pragma unroll
    for (int g = 0; g < Cell::gates; ++g) {
      if (g < Cell::first_gate(phase) || g >= Cell::end_gate(phase)) continue;
      if constexpr (Cell::separate) {
        q[g] = product(g);
        if (t.recurrent_bias != nullptr) q[g] += t.recurrent_bias[g * t.units + u];
      } else {
        z[g] += product(g);
      }
    }
    const float y = cell.point(t, phase, at, u, z, q, before);
    float* const z_row = t.gates + at.kept * Cell::gates * t.units + u;
#pragma unroll
    for (int g = 0; g < Cell::gates; ++g) {
      if (g < Cell::first_gate(phase) || g >= Cell::end_gate(phase)) continue;
      if (t.keeps || phase + 1 < Cell::phases) z_row[g * t.units] = z[g];
    }
    if (phase + 1 < Cell::phases) {
      __stcg(t.second_row(at) + u, y);
      return y;
    }
    t.outputs[at.output * t.units + u] = y;
    const float next = y * scale;
    if (at.last) {
      t.h[at.n * t.units + u] = y;
    } else {
      __stcg(t.operand(at.j + 1, at.row) + u, next);
    }
    return next;
  }
};

// h0 as the first step reads it; the results of sequences without steps.
template <class Cell>
__global__ void begin_forward(ForwardTask t, Cell cell) {
  const StepsView& s = t.steps;
  const std::int64_t size = s.batch * t.units;
  for (std::int64_t i = device::grid_thread(); i < size; i += device::grid_threads()) {
    const std::int64_t row = i / t.units;
    const std::int64_t u = i - row * t.units;
    const std::int64_t n = s.sequence_of(row);
    const float h = t.h0 == nullptr ? 0.0f : t.h0[n * t.units + u];
    if (s.length_of(row) > 0) {
      t.operand(0, row)[u] = t.h_scale == nullptr ? h : h * t.h_scale[n * t.units + u];
    } else {
      t.h[n * t.units + u] = h;
      cell.carry(t, n, u);
    }
  }
}

// Weights of a block in shared memory: to[k][columns], a phase's gates of its units side by side.
template <class Cell>
__device__ void load_forward_weights(const ForwardTask& t, const Geometry& g, int first_unit,
                                     float* to) {
  const std::int64_t row = Cell::gates * t.units;
  for (int phase = 0; phase < Cell::phases; ++phase) {
    const int width = phase == 0 ? g.widths[0] : g.widths[1];
    const int size = g.terms * width;
    for (int i = static_cast<int>(threadIdx.x); i < size; i += static_cast<int>(blockDim.x)) {
      const int k = i / width;
      const int column = i - k * width;
      const int gate = Cell::first_gate(phase) + column / g.slice_units;
      const int u = first_unit + column % g.slice_units;
      const bool inside = k < t.units && gate < Cell::end_gate(phase) && u < t.units;
      to[i] = inside ? t.recurrent_kernel[k * row + gate * t.units + u] : 0.0f;
    }
    to += size;
  }
}

// to[row][k] of some rows of the operand, zeros beyond; loads several quads before it stores them.
template <class Row>
__device__ void load_operand(const Geometry& g, int rows, int tile_rows, std::int64_t terms,
                             const Row& row_of, float* to) {
  const int quads = g.terms / 4;
  const int size = tile_rows * quads;
  const int threads = static_cast<int>(blockDim.x);
  constexpr int in_flight = 8;
  for (int first = static_cast<int>(threadIdx.x); first < size; first += in_flight * threads) {
    float4 v[in_flight];
#pragma unroll
    for (int i = 0; i < in_flight; ++i) {
      const int at = first + i * threads;
      const int row = at / quads;
      v[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (at < size && row < rows) {
        v[i] = __ldcg(reinterpret_cast<const float4*>(row_of(row)) + (at - row * quads));
      }
    }
#pragma unroll
    for (int i = 0; i < in_flight; ++i) {
      const int at = first + i * threads;
      if (at >= size) break;
      const int row = at / quads;
      const int k = 4 * (at - row * quads);
      // What stands behind the last unit may be anything.
      if (k + 1 >= terms) v[i].y = 0.0f;
      if (k + 2 >= terms) v[i].z = 0.0f;
      if (k + 3 >= terms) v[i].w = 0.0f;
      *reinterpret_cast<float4*>(to + row * g.operand_stride + k) = v[i];
    }
  }
}

template <class Cell, class Tile>
__global__ void __launch_bounds__(most_warps* device::warp_size, 1)
    forward_steps(ForwardTask t, Cell cell, Geometry g) {
  float* const weights = device::dynamic_shared<float>();
  float* const operand = weights + g.weight_floats;
  float* const sums = g.shares_memory ? operand : operand + g.operand_floats;
  const int threads = static_cast<int>(blockDim.x);
  const int warp = static_cast<int>(threadIdx.x) / device::warp_size;
  const int group = static_cast<int>(blockIdx.x) / g.slices;
  const int first_unit = (static_cast<int>(blockIdx.x) - group * g.slices) * g.slice_units;
  const std::int64_t first_row = static_cast<std::int64_t>(group) * g.group_rows;
  load_forward_weights<Cell>(t, g, first_unit, weights);
  if (g.local()) {
    // Only units are written afterwards; rows that are none and what fills up the terms stay zeros.
    for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(g.operand_floats);
         i += threads) {
      operand[i] = 0.0f;
    }
  }
  __syncthreads();
  Exchange exchange(t.arrivals, group, g.slices);
  for (std::int64_t j = 0; j < t.steps.count; ++j) {
    const std::int64_t active = t.steps.active(j) - first_row;
    const int rows = static_cast<int>(active < 0              ? 0
                                      : active < g.group_rows ? active
                                                              : g.group_rows);
    const float* phase_weights = weights;
#pragma unroll 1
    for (int phase = 0; phase < Cell::phases; ++phase) {
      const int width = phase == 0 ? g.widths[0] : g.widths[1];  // no index: registers
      const WarpGrid grid = WarpGrid::of<Tile>(width, g.warps);
      const bool multiplies = t.multiplies(j, phase);
      bool waits = !g.local() && (j > 0 || phase > 0);
      for (int first = 0; first < rows || waits; first += Tile::rows) {
        const int items = device::smaller(Tile::rows, rows - first) * g.slice_units;
        const auto item_at = [&](int i) {
          const int row = first + i / g.slice_units;
          const int u = first_unit + i % g.slice_units;
          return ForwardItem<Cell>(t, cell, phase, j, first_row + row, u, i < items && u < t.units);
        };
        // Those of the first round are loaded while the block waits.
        ForwardItem<Cell> item = item_at(static_cast<int>(threadIdx.x));
        if (waits) exchange.wait();
        waits = false;
        if (multiplies) {
          if (!g.local() || (j == 0 && phase == 0)) {
            load_operand(
                g, rows - first, Tile::rows, t.units,
                [&](int row) -> const float* {
                  const std::int64_t r = first_row + first + row;
                  if (phase == 0) return t.operand(j, r);
                  return t.second + (t.keeps ? t.steps.kept(j, r) : r) * t.padded;
                },
                operand);
          }
          __syncthreads();
          TileSums<Tile> tile;
          tile.clear();
          const int along = warp / grid.across;
          const int across = warp - along * grid.across;
          const int begin = grid.term(g.terms, along);
          const int end = grid.term(g.terms, along + 1);
          // One tile a warp, save in the widest products of a block alone.
          for (int column = across * Tile::columns; column < width && along < grid.along;
               column += grid.across * Tile::columns) {
            tile.clear();
            tile.multiply(operand, g.operand_stride, phase_weights + column, width, begin, end);
            if (g.shares_memory) continue;
            tile.each([&](int row, int c, float4 v) {
              *reinterpret_cast<float4*>(sums + (along * Tile::rows + row) * g.sums_stride +
                                         column + c) = v;
            });
          }
          __syncthreads();
          if (g.shares_memory) {
            if (along < grid.along) {
              tile.each([&](int row, int c, float4 v) {
                *reinterpret_cast<float4*>(sums + (along * Tile::rows + row) * g.sums_stride +
                                           across * Tile::columns + c) = v;
              });
            }
            __syncthreads();
          }
        }
        for (int i = static_cast<int>(threadIdx.x); i < items; i += threads) {
          if (i >= threads) item = item_at(i);
          if (!item.valid) continue;
          const int row = i / g.slice_units;
          const int v = i - row * g.slice_units;
          const float* const sum = sums + row * g.sums_stride + v;
          const float next = item.finish(t, cell, phase, [&](int gate) {
            if (!multiplies) return 0.0f;
            float q = 0.0f;
            for (int w = 0; w < grid.along; ++w) {
              q += sum[w * Tile::rows * g.sums_stride +
                       (gate - Cell::first_gate(phase)) * g.slice_units];
            }
            return q;
          });
          if (g.local()) operand[row * g.operand_stride + first_unit + v] = next;
        }
        __syncthreads();
      }
      if (!g.local() && (j + 1 < t.steps.count || phase + 1 < Cell::phases)) exchange.arrive();
      phase_weights += g.terms * width;
    }
  }
}

// A phase of step j where its product is in memory: products (active rows, the phase's gates * U),
// or null.
template <class Cell>
__global__ void forward_step(ForwardTask t, Cell cell, std::int64_t j, int phase,
                             std::int64_t active, const float* products) {
  const std::int64_t size = active * t.units;
  const std::int64_t width =
      static_cast<std::int64_t>(Cell::end_gate(phase) - Cell::first_gate(phase)) * t.units;
  for (std::int64_t i = device::grid_thread(); i < size; i += device::grid_threads()) {
    const std::int64_t row = i / t.units;
    const std::int64_t u = i - row * t.units;
    ForwardItem<Cell> item(t, cell, phase, j, row, u, true);
    item.finish(t, cell, phase, [&](int gate) {
      if (products == nullptr) return 0.0f;
      return products[row * width + (gate - Cell::first_gate(phase)) * t.units + u];
    });
  }
}

template <class Cell>
Problem problem_of(const Sequence& q) {
  Problem p = {q.steps->batch(), q.units, q.state_size, Cell::gates, Cell::phases, {}};
  for (int i = 0; i < Cell::phases; ++i) p.phase_gates[i] = Cell::end_gate(i) - Cell::first_gate(i);
  return p;
}

inline Chip this_chip() {
  const device::Properties& p = device::properties();
  return {p.multiprocessors, p.shared_bytes};
}

// body(tile) with the tile of tile_sizes[index].
template <int index = 0, class Body>
void with_tile(int chosen, const Body& body) {
  if constexpr (index < tile_count) {
    if (chosen == index) {
      return body(TileShape<tile_sizes[index].rows_each, tile_sizes[index].columns_each>{});
    }
    with_tile<index + 1>(chosen, body);
  }
}

// Launches kernel(task, cell, geometry) for the whole sequence if the device can hold its blocks.
template <class Task, class Cell>
bool launch_sequence(const char* op, const Geometry& g, void (*kernel)(Task, Cell, Geometry),
                     Task task, const Cell& cell) {
  const int threads = g.warps * device::warp_size;
  const bool cooperates = !g.local();
  if (cooperates && device::resident_blocks(kernel, threads, g.shared_bytes()) < g.blocks()) {
    return false;
  }
  const std::int64_t words = cooperates ? std::int64_t{g.groups} * arrivals_stride : 0;
  const Scratch<unsigned> arrivals(op, words);
  if (cooperates) {
    device::fill_bytes(arrivals.get(), 0, static_cast<std::size_t>(words) * sizeof(unsigned));
  }
  task.arrivals = arrivals.get();
  device::launch(op,
                 {dim3(static_cast<unsigned>(g.blocks())), dim3(static_cast<unsigned>(threads)),
                  g.shared_bytes(), cooperates},
                 kernel, task, cell, g);
  return true;
}

template <class Cell>
void launch_forward_steps(const Sequence& q, const ForwardTask& task, const Cell& cell) {
  const Steps& s = *q.steps;
  const std::int64_t width = Cell::gates * q.units;
  const Scratch<float> products(q.op, s.batch() * width);
  for (std::int64_t j = 0; j < s.count(); ++j) {
    for (int phase = 0; phase < Cell::phases; ++phase) {
      const int first = Cell::first_gate(phase);
      const std::int64_t columns = (Cell::end_gate(phase) - first) * q.units;
      const bool multiplies = j > 0 || phase > 0 || q.h0 != nullptr;
      if (multiplies) {
        Matrix a = {phase > 0 ? task.second : task.states, task.padded, 1};
        if (task.keeps) {
          // Where every step is computed, those of a step lie `time` rows apart.
          a.data += (s.all() ? s.time_of(j, 0) : s.offset(j)) * task.padded;
          if (s.all()) a.row_step = s.time() * task.padded;
        } else if (phase == 0) {
          a.data += j % 2 * s.batch() * task.padded;
        }
        multiply(q.op, s.active(j), columns, q.units, a,
                 {q.recurrent_kernel + first * q.units, width, 1}, nullptr, products.get(),
                 columns);
      }
      device::launch(q.op, device::elements(s.active(j) * q.units, 1), forward_step<Cell>, task,
                     cell, j, phase, s.active(j), multiplies ? products.get() : nullptr);
    }
  }
}

// `second` of the results where Cell has two phases.
template <class Cell>
void forward_sequence(const Sequence& q, const Results& out, const Cell& cell,
                      const DeviceSteps& steps) {
  const Steps& s = *q.steps;
  const std::int64_t width = Cell::gates * q.units;
  const std::int64_t padded = ceil_units(q.units);
  const bool keeps = out.gates != nullptr;
  const std::int64_t rows = s.packed_rows();
  const Scratch<float> own_gates(q.op, keeps ? 0 : rows * width);
  const Scratch<float> own_states(q.op, keeps ? 0 : 2 * s.batch() * padded);
  const Scratch<float> own_second(q.op, keeps || Cell::phases == 1 ? 0 : s.batch() * padded);
  const ForwardTask task = {steps.view(),
                            q.units,
                            padded,
                            q.recurrent_kernel,
                            q.recurrent_bias,
                            q.h0,
                            q.h_scale,
                            keeps ? out.gates : own_gates.get(),
                            keeps,
                            keeps ? out.states : own_states.get(),
                            keeps ? out.second : own_second.get(),
                            out.outputs,
                            out.h,
                            nullptr};
  multiply_inputs(q, steps.view(), width, q.bias, task.gates);
  device::launch(q.op, device::elements(s.batch() * q.units), begin_forward<Cell>, task, cell);
  if (rows > 0) {
    const Geometry g = best_geometry(problem_of<Cell>(q), this_chip(), forward_geometry);
    bool launched = false;
    with_tile(g.tile, [&](auto tile) {
      launched = launch_sequence(q.op, g, forward_steps<Cell, decltype(tile)>, task, cell);
    });
    if (!launched) launch_forward_steps(q, task, cell);
  }
  repeat_carried(q, steps.view(), q.units, out.outputs);
}

}  // namespace lamella::recurrent
