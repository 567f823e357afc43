// The backward pass of a recurrent op on the device: back through the steps in one launch
// (geometry.h), with the gradients of the gates of all steps kept; then dx and the weights'
// gradients as one product each over all steps. A block multiplies the gate gradients of its own
// units with its part of the recurrent kernel: a part of the gradient of every unit of h, which
// the owner of the unit adds up in the order of the blocks. Where the weights do not fit on chip,
// each step is a pointwise kernel and a product of their own.
//
// A Cell is a kernel parameter and has gates, phases, separate, first_gate and end_gate as forward,
//   static constexpr bool may_keep_state    part of h may go past the products: task.kept
//   struct Before                           what a step reads that does not wait for a product
//   Before before(task, phase, place, u) const
//   float point(task, phase, place, u, dh, before, kept, dz, dq) const
//       From dh, the gradient of h after the step (of what entered the second product, in front of
//       it), dz of gates, with `separate` dq of the product of h. Fills in dz of the phase's gates
//       and of others that it knows, whose bits it gives. `kept` is the gradient that goes to h
//       before the step past the products: 0 in the last phase.
//   void carry_back(n, u) const             of a sequence without steps
#pragma once

#include "recurrent/forward.cuh"

namespace lamella::recurrent {

struct BackwardTask {
  StepsView steps;
  std::int64_t units;
  std::int64_t padded;  // floats of a row of states
  const float* recurrent_kernel;
  const float* h_scale;
  const float* gates;      // (rows, gates * U) as forward left them
  float* dz;               // likewise
  float* dq;               // likewise, with `separate`
  const float* d_outputs;  // OutputGradients
  const float* dh;         // (N,U) or null
  float* kept;             // (N,U) in the order of rows, or null: nothing goes past the products
  float* dh0;              // (N,U) or null: not wanted
  float* parts;            // (2, N, slices, slices, slice_units) exchanged between blocks
  unsigned* arrivals;
};

// A unit of a row at a step: loaded before the product is there, then finished.
template <class Cell>
struct BackwardItem {
  bool valid;
  Place at;
  std::int64_t u;
  float gates[Cell::gates];
  float dh, scale, kept;
  typename Cell::Before before;

  __device__ BackwardItem(const BackwardTask& t, const Cell& cell, int phase, std::int64_t j,
                          std::int64_t row, std::int64_t unit, bool is_valid)
      : valid(is_valid), at(t.steps, j, is_valid ? row : 0), u(unit) {
    if (!valid) return;
    const float* const gate_row = t.gates + at.kept * Cell::gates * t.units + u;
#pragma unroll
    for (int g = 0; g < Cell::gates; ++g) gates[g] = gate_row[g * t.units];
    scale = t.h_scale == nullptr ? 1.0f : t.h_scale[at.n * t.units + u];
    kept = 0.0f;
    dh = 0.0f;
    const bool receives = phase + 1 == Cell::phases;
    if (t.kept != nullptr && !(receives && at.last)) kept = t.kept[at.row * t.units + u];
    if (receives) {
      if (t.d_outputs != nullptr) {
        dh = t.d_outputs[(t.steps.all ? at.output : at.kept) * t.units + u];
      }
      if (at.last && t.dh != nullptr) dh += t.dh[at.n * t.units + u];
    }
    before = cell.before(t, phase, at, u);
  }

  // Whether the product of before takes part.
  __device__ bool adds_product(int phase) const { return phase + 1 < Cell::phases || !at.last; }

  // The gradients that the phase's product meets, in `operand`.
  __device__ void finish(const BackwardTask& t, const Cell& cell, int phase, float product,
                         float (&operand)[Cell::gates]) {
    float passed = 0.0f;
    if (phase + 1 == Cell::phases) {
      if (!at.last) {
        const float from_products = t.h_scale == nullptr ? product : product * scale;
        dh += t.kept == nullptr ? from_products : from_products + kept;
      }
    } else {
      dh = product;
      passed = kept;
    }
    float dz[Cell::gates], dq[Cell::gates];
    const unsigned known = cell.point(t, phase, at, u, dh, scale, gates, before, passed, dz, dq);
    const std::int64_t first = at.kept * Cell::gates * t.units + u;
#pragma unroll
    for (int g = 0; g < Cell::gates; ++g) {
      if ((known >> g & 1u) == 0) continue;
      t.dz[first + g * t.units] = dz[g];
      if constexpr (Cell::separate) t.dq[first + g * t.units] = dq[g];
      operand[g] = Cell::separate ? dq[g] : dz[g];
    }
    if (t.kept != nullptr) t.kept[at.row * t.units + u] = passed;
  }
};

// After all steps: the gradient of h0, and what sequences without steps hand on.
template <class Cell>
__device__ void end_sequence(const BackwardTask& t, const Cell& cell, std::int64_t row,
                             std::int64_t u, float product) {
  const std::int64_t n = t.steps.sequence_of(row);
  const std::int64_t i = n * t.units + u;
  const bool empty = t.steps.length_of(row) == 0;
  if (empty) cell.carry_back(t, n, u);
  if (t.dh0 == nullptr) return;
  float d = t.dh0[i];  // of outputs in front of the first step
  if (empty) {
    if (t.dh != nullptr) d += t.dh[i];
  } else {
    const float from_products = t.h_scale == nullptr ? product : product * t.h_scale[i];
    d += t.kept == nullptr ? from_products : from_products + t.kept[row * t.units + u];
  }
  t.dh0[i] = d;
}

// Where in `parts` what a block computed for `column` of a row lies, and what all blocks did.
__device__ inline std::int64_t part_at(const BackwardTask& t, const Geometry& g, int parity,
                                       std::int64_t row, int owner, int block) {
  return ((((parity * t.steps.batch + row) * g.slices + owner) * g.slices) + block) * g.slice_units;
}

// Weights of a block in shared memory: to[gate * slice_units + unit][h].
template <class Cell>
__device__ void load_backward_weights(const BackwardTask& t, const Geometry& g, int first_unit,
                                      float* to) {
  const std::int64_t row = Cell::gates * t.units;
  const int width = g.widths[0];
  const int lane = static_cast<int>(threadIdx.x) % device::warp_size;
  const int warp = static_cast<int>(threadIdx.x) / device::warp_size;
  // 8 terms by 4 columns a warp: whole sectors read, few banks met twice.
  const int pieces = (g.terms + 7) / 8;
  for (int i = warp; i < pieces * (width / 4); i += g.warps) {
    const int term = i % pieces * 8 + lane % 8;
    const int column = i / pieces * 4 + lane / 8;
    if (term >= g.terms) continue;
    const int gate = term / g.slice_units;
    const int u = first_unit + term % g.slice_units;
    const bool inside = column < t.units && u < t.units;
    to[term * width + column] =
        inside ? t.recurrent_kernel[column * row + gate * t.units + u] : 0.0f;
  }
}

// A block's share of the gradient of h, to the owners of its columns.
template <class Tile>
__device__ void hand_out(const BackwardTask& t, const Geometry& g, const WarpGrid& grid, int parity,
                         int slice, std::int64_t first_row, int rows, const float* sums) {
  const int quads = g.slices * g.slice_units / 4;
  for (int i = static_cast<int>(threadIdx.x); i < rows * quads; i += static_cast<int>(blockDim.x)) {
    const int row = i / quads;
    const int column = (i - row * quads) * 4;
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int w = 0; w < grid.along; ++w) {
      const float4 part =
          *reinterpret_cast<const float4*>(sums + (w * Tile::rows + row) * g.sums_stride + column);
      v.x += part.x;
      v.y += part.y;
      v.z += part.z;
      v.w += part.w;
    }
    const int owner = column / g.slice_units;
    float* const to = t.parts + part_at(t, g, parity, first_row + row, owner, slice);
    __stcg(reinterpret_cast<float4*>(to + (column - owner * g.slice_units)), v);
  }
}

// The parts of all blocks in their order, several loads on their way at a time.
__device__ inline float collect(const BackwardTask& t, const Geometry& g, int parity,
                                std::int64_t row, int slice, int unit) {
  const float* const from = t.parts + part_at(t, g, parity, row, slice, 0) + unit;
  float sum = 0.0f;
  constexpr int in_flight = 8;
  for (int first = 0; first < g.slices; first += in_flight) {
    float part[in_flight];
#pragma unroll
    for (int i = 0; i < in_flight; ++i) {
      part[i] = first + i < g.slices ? __ldcg(from + (first + i) * g.slice_units) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < in_flight; ++i) sum += part[i];
  }
  return sum;
}

template <class Cell, class Tile>
__global__ void __launch_bounds__(most_warps* device::warp_size, 1)
    backward_steps(BackwardTask t, Cell cell, Geometry g) {
  float* const weights = device::dynamic_shared<float>();
  float* const operand = weights + g.weight_floats;
  float* const sums = operand + g.operand_floats;
  const int threads = static_cast<int>(blockDim.x);
  const int warp = static_cast<int>(threadIdx.x) / device::warp_size;
  const int group = static_cast<int>(blockIdx.x) / g.slices;
  const int slice = static_cast<int>(blockIdx.x) - group * g.slices;
  const int first_unit = slice * g.slice_units;
  const std::int64_t first_row = static_cast<std::int64_t>(group) * g.group_rows;
  const int width = g.widths[0];
  const WarpGrid grid = WarpGrid::of<Tile>(width, g.warps);
  const int along = warp / grid.across;
  const int across = warp - along * grid.across;
  load_backward_weights<Cell>(t, g, first_unit, weights);
  __syncthreads();
  Exchange exchange(t.arrivals, group, g.slices);
  int parity = 0;  // of what the last product gave
  const auto product_of = [&](int row_of_tile, std::int64_t row, int unit) {
    if (!g.local()) return collect(t, g, parity, row, slice, unit);
    float sum = 0.0f;
    for (int w = 0; w < grid.along; ++w) {
      sum += sums[(w * Tile::rows + row_of_tile) * g.sums_stride + unit];
    }
    return sum;
  };
  bool waits = false;
  for (std::int64_t j = t.steps.count - 1; j >= 0; --j) {
    const std::int64_t active = t.steps.active(j) - first_row;
    const int rows = static_cast<int>(active < 0              ? 0
                                      : active < g.group_rows ? active
                                                              : g.group_rows);
#pragma unroll 1
    for (int phase = Cell::phases - 1; phase >= 0; --phase) {
      const bool multiplies = phase > 0 || j > 0 || t.dh0 != nullptr;
      for (int first = 0; first < rows || waits; first += Tile::rows) {
        const int items = Tile::rows * g.slice_units;
        const auto item_at = [&](int i) {
          const int row = first + i / g.slice_units;
          const int u = first_unit + i % g.slice_units;
          return BackwardItem<Cell>(t, cell, phase, j, first_row + row, u,
                                    i < items && row < rows && u < t.units);
        };
        BackwardItem<Cell> item = item_at(static_cast<int>(threadIdx.x));
        if (waits) exchange.wait();
        waits = false;
        for (int i = static_cast<int>(threadIdx.x); i < items; i += threads) {
          if (i >= threads) item = item_at(i);
          const int row = i / g.slice_units;
          const int unit = i - row * g.slice_units;
          float d[Cell::gates] = {};
          if (item.valid) {
            const float product =
                item.adds_product(phase) ? product_of(row, item.at.row, unit) : 0.0f;
            item.finish(t, cell, phase, product, d);
          }
          // Units and rows that are none have no gradient.
          float* const to = operand + row * g.operand_stride + unit;
#pragma unroll
          for (int gate = 0; gate < Cell::gates; ++gate) to[gate * g.slice_units] = d[gate];
        }
        __syncthreads();
        if (multiplies) {
          const int first_term = Cell::first_gate(phase) * g.slice_units;
          const int terms = Cell::end_gate(phase) * g.slice_units - first_term;
          const int begin = first_term + grid.term(terms, along);
          const int end = first_term + grid.term(terms, along + 1);
          const bool direct = !g.local() && grid.along == 1;
          for (int column = across * Tile::columns; column < width && along < grid.along;
               column += grid.across * Tile::columns) {
            TileSums<Tile> tile;
            tile.clear();
            tile.multiply(operand, g.operand_stride, weights + column, width, begin, end);
            tile.each([&](int row, int c, float4 v) {
              if (!direct) {
                *reinterpret_cast<float4*>(sums + (along * Tile::rows + row) * g.sums_stride +
                                           column + c) = v;
                return;
              }
              const int owner = (column + c) / g.slice_units;
              if (owner >= g.slices || first + row >= rows) return;
              float* const to =
                  t.parts + part_at(t, g, parity ^ 1, first_row + first + row, owner, slice);
              __stcg(reinterpret_cast<float4*>(to + (column + c - owner * g.slice_units)), v);
            });
          }
          if (!g.local() && !direct) {
            __syncthreads();
            hand_out<Tile>(t, g, grid, parity ^ 1, slice, first_row + first,
                           device::smaller(Tile::rows, rows - first), sums);
          }
          __syncthreads();
        }
      }
      parity ^= 1;
      if (!g.local() && multiplies) {
        exchange.arrive();
        waits = true;
      }
    }
  }
  if (waits) exchange.wait();
  const std::int64_t left = t.steps.batch - first_row;
  const int all_rows = static_cast<int>(left < g.group_rows ? left : g.group_rows);
  for (int i = static_cast<int>(threadIdx.x); i < all_rows * g.slice_units; i += threads) {
    const int row = i / g.slice_units;
    const int unit = i - row * g.slice_units;
    const std::int64_t r = first_row + row;
    if (first_unit + unit >= t.units) continue;
    const bool has_product = t.dh0 != nullptr && t.steps.length_of(r) > 0;
    end_sequence(t, cell, r, first_unit + unit, has_product ? product_of(row, r, unit) : 0.0f);
  }
}

// A phase of step j and, of the step or phase behind it, the product (N,U) in memory.
template <class Cell>
__global__ void backward_step(BackwardTask t, Cell cell, std::int64_t j, int phase,
                              std::int64_t active, const float* products) {
  const std::int64_t size = active * t.units;
  for (std::int64_t i = device::grid_thread(); i < size; i += device::grid_threads()) {
    const std::int64_t row = i / t.units;
    BackwardItem<Cell> item(t, cell, phase, j, row, i - row * t.units, true);
    float operand[Cell::gates];
    item.finish(t, cell, phase, item.adds_product(phase) ? products[i] : 0.0f, operand);
  }
}

template <class Cell>
__global__ void end_backward(BackwardTask t, Cell cell, const float* products) {
  const std::int64_t size = t.steps.batch * t.units;
  for (std::int64_t i = device::grid_thread(); i < size; i += device::grid_threads()) {
    const std::int64_t row = i / t.units;
    const bool has_product = t.dh0 != nullptr && t.steps.length_of(row) > 0;
    end_sequence(t, cell, row, i - row * t.units, has_product ? products[i] : 0.0f);
  }
}

template <class Cell>
void launch_backward_steps(const Sequence& q, const BackwardTask& task, const Cell& cell) {
  const Steps& s = *q.steps;
  const std::int64_t width = Cell::gates * q.units;
  const Scratch<float> products(q.op, s.batch() * q.units);
  for (std::int64_t j = s.count() - 1; j >= 0; --j) {
    for (int phase = Cell::phases - 1; phase >= 0; --phase) {
      device::launch(q.op, device::elements(s.active(j) * q.units, 1), backward_step<Cell>, task,
                     cell, j, phase, s.active(j), products.get());
      if (phase == 0 && j == 0 && task.dh0 == nullptr) continue;
      const int first = Cell::first_gate(phase);
      const std::int64_t terms = (Cell::end_gate(phase) - first) * q.units;
      Matrix d = {Cell::separate ? task.dq : task.dz, width, 1};
      d.data += (s.all() ? s.time_of(j, 0) : s.offset(j)) * width + first * q.units;
      if (s.all()) d.row_step = s.time() * width;
      multiply(q.op, s.active(j), q.units, terms, d,
               {q.recurrent_kernel + first * q.units, 1, width}, nullptr, products.get(), q.units);
    }
  }
  device::launch(q.op, device::elements(s.batch() * q.units), end_backward<Cell>, task, cell,
                 products.get());
}

// dkernel, drecurrent_kernel and the biases of what all steps left.
template <class Cell>
void weight_gradients(const Sequence& q, const Results& saved, const StepsView& steps,
                      const BackwardTask& task, const Gradients& out) {
  const std::int64_t rows = q.steps->packed_rows();
  const std::int64_t width = Cell::gates * q.units;
  if (out.kernel != nullptr) {
    const InputRows x(q, steps);
    multiply(q.op, q.inputs, width, rows, {x.get(), 1, q.inputs}, {task.dz, width, 1}, nullptr,
             out.kernel, width);
  }
  if (out.bias != nullptr) sum_rows(q.op, rows, width, task.dz, out.bias);
  const float* const dq = Cell::separate ? task.dq : task.dz;
  if (out.recurrent_bias != nullptr) sum_rows(q.op, rows, width, dq, out.recurrent_bias);
  if (out.recurrent_kernel == nullptr) return;
  for (int phase = 0; phase < Cell::phases; ++phase) {
    const int first = Cell::first_gate(phase);
    const std::int64_t columns = (Cell::end_gate(phase) - first) * q.units;
    const float* const operand = phase == 0 ? saved.states : saved.second;
    multiply(q.op, q.units, columns, rows, {operand, 1, task.padded},
             {dq + first * q.units, width, 1}, nullptr, out.recurrent_kernel + first * q.units,
             width);
  }
}

// keeps_state: whether part of h goes past the products.
template <class Cell>
void backward_sequence(const Sequence& q, const Results& saved, const ResultGradients& dy,
                       const Gradients& out, const Cell& cell, bool keeps_state,
                       const DeviceSteps& steps) {
  const Steps& s = *q.steps;
  const std::int64_t rows = s.packed_rows();
  const std::int64_t width = Cell::gates * q.units;
  const Scratch<float> dz(q.op, rows * width);
  const Scratch<float> dq(q.op, Cell::separate ? rows * width : 0);
  const Scratch<float> kept(q.op, keeps_state ? s.batch() * q.units : 0);
  const OutputGradients d_outputs(q, steps.view(), q.units, dy.outputs, out.h0);
  BackwardTask task = {steps.view(),
                       q.units,
                       ceil_units(q.units),
                       q.recurrent_kernel,
                       q.h_scale,
                       saved.gates,
                       dz.get(),
                       dq.get(),
                       d_outputs.get(),
                       dy.h,
                       keeps_state ? kept.get() : nullptr,
                       out.h0,
                       nullptr,
                       nullptr};
  Geometry g;
  if (rows > 0) g = best_geometry(problem_of<Cell>(q), this_chip(), backward_geometry);
  const Scratch<float> parts(q.op,
                             g.local() ? 0 : 2 * s.batch() * g.slices * g.slices * g.slice_units);
  task.parts = parts.get();
  bool launched = false;
  with_tile(g.tile, [&](auto tile) {
    launched = launch_sequence(q.op, g, backward_steps<Cell, decltype(tile)>, task, cell);
  });
  if (!launched) launch_backward_steps(q, task, cell);
  weight_gradients<Cell>(q, saved, steps.view(), task, out);
  if (out.x != nullptr) input_gradients(q, steps.view(), width, dz.get(), out.x);
}

}  // namespace lamella::recurrent
