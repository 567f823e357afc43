// Forward pass of the LSTM with layer normalization and projection: x W and its statistics for all
// steps; then all steps in one launch (lstm_cuda_variant_forward_steps.cu) or, where that does not
// fit on chip, a step is the product of h, a kernel from the products to the output, a block a row,
// and with a projection its product and a kernel that hands h on. Launches decide, then the bytes
// of the recurrent kernel in L2.
#include "ops/lstm/lstm_cuda_variant_forward.cuh"

namespace lamella::lstm {
namespace {

using recurrent::Place;

__global__ void __launch_bounds__(row_threads) begin_rows(VariantForward t) {
  const recurrent::StepsView& s = t.steps;
  const std::int64_t row = blockIdx.x;
  const std::int64_t n = s.sequence_of(row);
  const bool empty = s.length_of(row) == 0;
  for (std::int64_t u = threadIdx.x; u < t.state_size; u += row_threads) {
    const std::int64_t i = n * t.state_size + u;
    const float h = t.h0 == nullptr ? 0.0f : t.h0[i];
    if (empty) {
      t.h[i] = h;
    } else {
      t.operand(0, row)[u] = t.h_scale == nullptr ? h : h * t.h_scale[i];
    }
  }
  if (!empty) return;
  for (std::int64_t u = threadIdx.x; u < t.units; u += row_threads) {
    t.c[n * t.units + u] = t.cells.c0 == nullptr ? 0.0f : t.cells.c0[n * t.units + u];
  }
}

// Statistics of x W, a kept row a block.
__global__ void __launch_bounds__(row_threads) input_statistics(VariantForward t) {
  __shared__ float shared[row_threads / gpu::warp_size];
  const std::int64_t width = 4 * t.units;
  const float* const row = t.x_product + blockIdx.x * width;
  const RowStatistics found =
      row_statistics(width, t.v.epsilon, [&](std::int64_t i) { return row[i]; }, shared);
  if (threadIdx.x > 0) return;
  float* const to = t.statistics + blockIdx.x * statistics_floats + 2 * of_x;
  to[0] = found.mean;
  to[1] = found.inverse_deviation;
}

// Step j of row blockIdx.x, from its products to y, or to h where there is no projection. `product`
// says whether the step has a product of h; it is zeros else.
__global__ void __launch_bounds__(row_threads)
    gates_of_rows(VariantForward t, std::int64_t j, bool product) {
  __shared__ float shared[row_threads / gpu::warp_size];
  const Place at(t.steps, j, blockIdx.x);
  const std::int64_t units = t.units;
  const std::int64_t width = 4 * units;
  const Variant& v = t.v;
  const float* const x_row = t.x_product + at.kept * width;
  float* const h_row = t.h_product + (t.keeps && v.gamma_h != nullptr ? at.kept : at.row) * width;
  float* const kept =
      t.statistics == nullptr ? nullptr : t.statistics + at.kept * statistics_floats;
  const RowStatistics x_statistics = RowStatistics::kept(v.gamma_x, kept, of_x);
  RowStatistics h_statistics = {0.0f, 0.0f};
  if (v.gamma_h != nullptr) {
    if (!product) {
      for (std::int64_t i = threadIdx.x; i < width; i += row_threads) h_row[i] = 0.0f;
      __syncthreads();
    }
    h_statistics =
        row_statistics(width, v.epsilon, [&](std::int64_t i) { return h_row[i]; }, shared);
    if (threadIdx.x == 0) {
      kept[2 * of_h] = h_statistics.mean;
      kept[2 * of_h + 1] = h_statistics.inverse_deviation;
    }
  }
  const auto preactivation = [&](std::int64_t i) {
    float z = x_row[i];
    if (v.gamma_x != nullptr) {
      z = fmaf(v.gamma_x[i], x_statistics.unit(z), t.bias == nullptr ? 0.0f : t.bias[i]);
    }
    if (v.gamma_h != nullptr) return fmaf(v.gamma_h[i], h_statistics.unit(h_row[i]), z);
    return product ? z + h_row[i] : z;
  };
  float* const y_row = t.y + at.row * t.padded;
  // c' of this step again, for its statistics and the output.
  float* const c_row = t.keeps ? t.cells.cells + at.kept * t.padded
                               : t.cells.cells + (t.steps.batch + at.row) * t.padded;
  for (std::int64_t u = threadIdx.x; u < units; u += row_threads) {
    const float z[4] = {preactivation(u), preactivation(units + u), preactivation(2 * units + u),
                        preactivation(3 * units + u)};
    const VariantForward::Unit found = t.step_cell(at, u, z);
    c_row[u] = found.c;
    y_row[u] = found.o;
  }
  __syncthreads();
  RowStatistics c_statistics = {0.0f, 0.0f};
  if (v.gamma_c != nullptr) {
    c_statistics =
        row_statistics(units, v.epsilon, [&](std::int64_t i) { return c_row[i]; }, shared);
    if (threadIdx.x == 0) {
      kept[2 * of_c] = c_statistics.mean;
      kept[2 * of_c + 1] = c_statistics.inverse_deviation;
    }
  }
  for (std::int64_t u = threadIdx.x; u < units; u += row_threads) {
    const float y = t.output(u, c_row[u], y_row[u], c_statistics);
    if (v.projection_kernel != nullptr) {
      y_row[u] = y;
    } else {
      t.emit(at, u, y);
    }
  }
}

__global__ void emit_projected(VariantForward t, std::int64_t j, std::int64_t active) {
  const std::int64_t size = active * t.state_size;
  for (std::int64_t i = gpu::grid_thread(); i < size; i += gpu::grid_threads()) {
    const std::int64_t row = i / t.state_size;
    t.emit(Place(t.steps, j, row), i - row * t.state_size, t.projected[i]);
  }
}

void forward_steps_of(const recurrent::Sequence& q, const VariantForward& t) {
  const Steps& s = *q.steps;
  const std::int64_t width = 4 * t.units;
  for (std::int64_t j = 0; j < s.count(); ++j) {
    const std::int64_t active = s.active(j);
    const bool product = j > 0 || q.h0 != nullptr;
    if (product) {
      recurrent::Matrix h = {t.states, t.padded_state, 1};
      if (t.keeps) {
        const StepRows rows(s, j, t.padded_state);
        h = {t.states + rows.first, rows.step, 1};
      } else {
        h.data += j % 2 * s.batch() * t.padded_state;
      }
      const StepRows rows(s, j, width);
      const bool kept = t.keeps && t.v.gamma_h != nullptr;
      recurrent::multiply(q.op, active, width, t.state_size, h, {q.recurrent_kernel, width, 1},
                          nullptr, t.h_product + (kept ? rows.first : 0), kept ? rows.step : width);
    }
    gpu::launch(q.op, each_row(active), gates_of_rows, t, j, product);
    if (t.v.projection_kernel == nullptr) continue;
    recurrent::multiply(q.op, active, t.state_size, t.units, {t.y, t.padded, 1},
                        {t.v.projection_kernel, t.state_size, 1}, nullptr, t.projected,
                        t.state_size);
    gpu::launch(q.op, gpu::elements(active * t.state_size, 1), emit_projected, t, j, active);
  }
}

}  // namespace

void device_variant_forward(const recurrent::Sequence& q, const Cell& cell, const Variant& variant,
                            const recurrent::Results& out, const CellResults& cell_out,
                            const VariantResults& kept) {
  const recurrent::DeviceSteps steps(q.op, *q.steps);
  const std::int64_t batch = q.steps->batch();
  const std::int64_t rows = q.steps->packed_rows();
  const std::int64_t width = 4 * q.units;
  const std::int64_t padded = recurrent::ceil_units(q.units);
  const std::int64_t padded_state = recurrent::ceil_units(q.state_size);
  const bool keeps = out.gates != nullptr;
  const bool normalizes =
      variant.gamma_x != nullptr || variant.gamma_h != nullptr || variant.gamma_c != nullptr;
  const bool projects = variant.projection_kernel != nullptr;
  const Scratch<float> own_x(q.op, keeps ? 0 : rows * width);
  const bool keeps_h = keeps && variant.gamma_h != nullptr;
  const Scratch<float> own_h(q.op, keeps_h ? 0 : batch * width);
  const Scratch<float> own_statistics(q.op, keeps || !normalizes ? 0 : rows * statistics_floats);
  // c after zoneout, and c' of the step.
  const Scratch<float> own_cells(q.op, keeps ? 0 : 2 * batch * padded);
  const Scratch<float> own_states(q.op, keeps ? 0 : 2 * batch * padded_state);
  const Scratch<float> y(q.op, batch * padded);
  const Scratch<float> projected(q.op, projects ? batch * q.state_size : 0);
  const CellRows cells = {
      cell.c0, keeps ? cell_out.cells : own_cells.get(), cell_out.carried, keeps, q.units, padded};
  float* const kept_x = variant.gamma_x != nullptr ? kept.x_product : out.gates;
  const VariantForward task = {steps.view(),
                               q.units,
                               q.state_size,
                               padded,
                               padded_state,
                               {cell.recurrent_activation},
                               {cell.activation},
                               cell.zoneout_h,
                               cell.zoneout_c,
                               q.h0,
                               q.h_scale,
                               q.bias,
                               q.recurrent_kernel,
                               variant,
                               cells,
                               keeps,
                               keeps ? kept_x : own_x.get(),
                               keeps_h ? kept.h_product : own_h.get(),
                               keeps ? out.gates : nullptr,
                               keeps ? kept.statistics : own_statistics.get(),
                               y.get(),
                               projected.get(),
                               keeps ? out.states : own_states.get(),
                               out.outputs,
                               out.h,
                               cell_out.c,
                               nullptr,
                               nullptr};
  // What is normalized gets the bias afterwards.
  recurrent::multiply_inputs(q, task.steps, width, variant.gamma_x == nullptr ? q.bias : nullptr,
                             task.x_product);
  gpu::launch(q.op, each_row(batch), begin_rows, task);
  if (variant.gamma_x != nullptr) gpu::launch(q.op, each_row(rows), input_statistics, task);
  if (!launch_variant_forward(q, task)) forward_steps_of(q, task);
  recurrent::repeat_carried(q, task.steps, q.state_size, out.outputs);
}

}  // namespace lamella::lstm
