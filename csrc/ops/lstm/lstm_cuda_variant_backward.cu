// Backward pass of the LSTM with layer normalization and projection: back through the steps in one
// launch (lstm_cuda_variant_backward_steps.cu) or, where that does not fit on chip, a step is a
// kernel that takes the gradient of h apart, with a projection its product, a kernel from the
// gradient of the output to those of the products, a block a row, and the product of h. Then dx and
// the kernels' gradients as one product each over all steps. Gradients of vectors are summed for
// each sequence on the way, and over the sequences at the end.
#include "ops/lstm/lstm_cuda_variant_backward.cuh"

namespace lamella::lstm {
namespace {

using recurrent::Place;

// The gradient of h' in front of zoneout.
__global__ void leave_state(VariantBackward t, std::int64_t j, std::int64_t active) {
  const std::int64_t size = active * t.state_size;
  for (std::int64_t i = gpu::grid_thread(); i < size; i += gpu::grid_threads()) {
    const std::int64_t row = i / t.state_size;
    const std::int64_t u = i - row * t.state_size;
    const Place at(t.steps, j, row);
    const float dh = t.leave_state(at, u, at.last ? 0.0f : t.products[i]);
    (t.v.projection_kernel != nullptr ? t.d_projected + at.kept * t.state_size
                                      : t.dy + row * t.units)[u] = dh;
  }
}

struct TwoSums {
  float d, du;
};
struct AddTwo {
  __device__ TwoSums operator()(TwoSums a, TwoSums b) const { return {a.d + b.d, a.du + b.du}; }
};

__device__ inline TwoSums mean_of(TwoSums sums, std::int64_t size, TwoSums* shared) {
  const float share = 1.0f / static_cast<float>(size);
  const TwoSums total = gpu::block_reduce<row_threads>(sums, AddTwo(), shared);
  return {total.d * share, total.du * share};
}

// From the gradient of y those of o and of c' as far as it comes from y, in the place of dy.
__device__ void output_back(const VariantBackward& t, const Place& at, float* dz, TwoSums* shared) {
  const std::int64_t units = t.units;
  const Variant& v = t.v;
  const float* const statistics =
      t.statistics == nullptr ? nullptr : t.statistics + at.kept * statistics_floats;
  const RowStatistics of = RowStatistics::kept(v.gamma_c, statistics, of_c);
  const float* const cells = t.cells.cells + at.kept * t.padded;
  float* const dy = t.dy + at.row * units;
  TwoSums sums = {0.0f, 0.0f};
  for (std::int64_t u = threadIdx.x; u < units; u += row_threads) {
    const VariantBackward::OutputBack found =
        t.output_back(at, u, dy[u], t.cells.cells[at.kept * t.padded + u], of);
    dz[3 * units + u] = found.dz;
    const float dc = found.dc;
    sums.d += dc;
    sums.du = fmaf(dc, found.unit, sums.du);
    dy[u] = dc;
  }
  if (v.gamma_c == nullptr) return;
  // The mean and the variance take their part of every gradient back.
  const TwoSums mean = mean_of(sums, units, shared);
  for (std::int64_t u = threadIdx.x; u < units; u += row_threads) {
    const float d = fmaf(-of.unit(cells[u]), mean.du, dy[u] - mean.d);
    dy[u] = d * of.inverse_deviation;
  }
}

// dv of a row that was normalized, from dz.
__device__ void normalized_back(const RowStatistics& of, std::int64_t width, bool begins,
                                const float* v, const float* gamma, const float* dz, float* d_gamma,
                                float* dv, TwoSums* shared) {
  TwoSums sums = {0.0f, 0.0f};
  for (std::int64_t k = threadIdx.x; k < width; k += row_threads) {
    const float unit = of.unit(v[k]);
    const float d = dz[k] * gamma[k];
    if (d_gamma != nullptr) add_to(d_gamma + k, begins, dz[k] * unit);
    sums.d += d;
    sums.du = fmaf(d, unit, sums.du);
  }
  const TwoSums mean = mean_of(sums, width, shared);
  for (std::int64_t k = threadIdx.x; k < width; k += row_threads) {
    const float d = fmaf(-of.unit(v[k]), mean.du, dz[k] * gamma[k] - mean.d);
    dv[k] = d * of.inverse_deviation;
  }
}

// Step j of row blockIdx.x, from dy to the gradients of both products.
__global__ void __launch_bounds__(row_threads) rows_back(VariantBackward t, std::int64_t j) {
  __shared__ TwoSums shared[row_threads / gpu::warp_size];
  const Place at(t.steps, j, blockIdx.x);
  const std::int64_t width = 4 * t.units;
  const Variant& v = t.v;
  // dz lies where the gradient of a product that is not normalized is kept.
  float* const dx_row = t.dx_product + at.kept * width;
  float* const dh_row = t.dh_product + at.kept * width;
  float* const dz = v.gamma_x == nullptr   ? dx_row
                    : v.gamma_h == nullptr ? dh_row
                                           : t.dz + at.row * width;
  output_back(t, at, dz, shared);
  // A thread reads in dy and dz what it wrote itself, down to here.
  for (std::int64_t u = threadIdx.x; u < t.units; u += row_threads) {
    float d[3];
    t.gates_back(at, u, t.dy[at.row * t.units + u], d);
#pragma unroll
    for (int gate = 0; gate < 3; ++gate) dz[gate * t.units + u] = d[gate];
  }
  __syncthreads();
  if (t.d_bias != nullptr) {
    for (std::int64_t k = threadIdx.x; k < width; k += row_threads) {
      add_to(t.d_bias + at.row * width + k, at.last, dz[k]);
    }
  }
  const float* const statistics =
      t.statistics == nullptr ? nullptr : t.statistics + at.kept * statistics_floats;
  if (v.gamma_h != nullptr) {
    normalized_back(RowStatistics::kept(v.gamma_h, statistics, of_h), width, at.last,
                    t.h_product + at.kept * width, v.gamma_h, dz,
                    t.d_gamma_h == nullptr ? nullptr : t.d_gamma_h + at.row * width, dh_row,
                    shared);
  }
  if (v.gamma_x != nullptr) {
    normalized_back(RowStatistics::kept(v.gamma_x, statistics, of_x), width, at.last,
                    t.x_product + at.kept * width, v.gamma_x, dz,
                    t.d_gamma_x == nullptr ? nullptr : t.d_gamma_x + at.row * width, dx_row,
                    shared);
  }
}

// The gradients of h0 and c0, and the sums of sequences without steps.
__global__ void __launch_bounds__(row_threads) end_rows(VariantBackward t) {
  const std::int64_t row = blockIdx.x;
  for (std::int64_t u = threadIdx.x; u < t.state_size; u += row_threads) {
    const bool has_product = t.dh0 != nullptr && t.steps.length_of(row) > 0;
    t.end_state(row, u, has_product ? t.products[row * t.state_size + u] : 0.0f);
  }
  for (std::int64_t u = threadIdx.x; u < t.units; u += row_threads) t.end_unit(row, u);
}

void backward_steps_of(const recurrent::Sequence& q, const VariantBackward& t) {
  const Steps& s = *q.steps;
  const std::int64_t width = 4 * t.units;
  for (std::int64_t j = s.count() - 1; j >= 0; --j) {
    const std::int64_t active = s.active(j);
    gpu::launch(q.op, gpu::elements(active * t.state_size, 1), leave_state, t, j, active);
    if (t.v.projection_kernel != nullptr) {
      const StepRows rows(s, j, t.state_size);
      recurrent::multiply(q.op, active, t.units, t.state_size,
                          {t.d_projected + rows.first, rows.step, 1},
                          {t.v.projection_kernel, 1, t.state_size}, nullptr, t.dy, t.units);
    }
    gpu::launch(q.op, each_row(active), rows_back, t, j);
    if (j == 0 && t.dh0 == nullptr) continue;
    const StepRows rows(s, j, width);
    recurrent::multiply(q.op, active, t.state_size, width,
                        {t.dh_product + rows.first, rows.step, 1}, {q.recurrent_kernel, 1, width},
                        nullptr, t.products, t.state_size);
  }
}

// Sums of a vector's gradient, a row for each sequence; none where it is not wanted.
struct VectorSums {
  const char* op;
  std::int64_t rows, width;
  float* out;
  Scratch<float> sums;

  VectorSums(const char* op_name, std::int64_t row_count, std::int64_t size, float* to)
      : op(op_name),
        rows(row_count),
        width(size),
        out(to),
        sums(op_name, to != nullptr ? row_count * size : 0) {}
  void end() const {
    if (out != nullptr) recurrent::sum_rows(op, rows, width, sums.get(), out);
  }
};

}  // namespace

void device_variant_backward(const recurrent::Sequence& q, const Cell& cell, const Variant& variant,
                             const recurrent::Results& saved, const CellResults& cell_saved,
                             const VariantResults& variant_saved,
                             const recurrent::ResultGradients& dy, const recurrent::Gradients& out,
                             const CellGradients& cell_out, const VariantGradients& variant_out) {
  const recurrent::DeviceSteps steps(q.op, *q.steps);
  const std::int64_t batch = q.steps->batch();
  const std::int64_t rows = q.steps->packed_rows();
  const std::int64_t width = 4 * q.units;
  const std::int64_t padded = recurrent::ceil_units(q.units);
  const bool projects = variant.projection_kernel != nullptr;
  const bool one_product = variant.gamma_x == nullptr && variant.gamma_h == nullptr;
  const bool two_normalized = variant.gamma_x != nullptr && variant.gamma_h != nullptr;
  const Scratch<float> products(q.op, batch * q.state_size);
  const Scratch<float> kept(q.op, cell.zoneout_h.on() ? batch * q.state_size : 0);
  const Scratch<float> d_projected(q.op, projects ? rows * q.state_size : 0);
  const bool needs_y = variant_out.projection_kernel != nullptr;
  const Scratch<float> y(q.op, needs_y ? rows * q.units : 0);
  const Scratch<float> d_y(q.op, batch * q.units);
  const Scratch<float> dc(q.op, batch * q.units);
  const Scratch<float> dx_product(q.op, rows * width);
  const Scratch<float> dh_product(q.op, one_product ? 0 : rows * width);
  const Scratch<float> dz(q.op, two_normalized ? batch * width : 0);
  const VectorSums bias(q.op, batch, width, out.bias);
  const VectorSums gamma_x(q.op, batch, width, variant_out.gamma_x);
  const VectorSums gamma_h(q.op, batch, width, variant_out.gamma_h);
  const VectorSums gamma_c(q.op, batch, q.units, variant_out.gamma_c);
  const VectorSums beta_c(q.op, batch, q.units, variant_out.beta_c);
  const recurrent::OutputGradients d_outputs(q, steps.view(), q.state_size, dy.outputs, out.h0);
  const CellRows cells = {cell.c0, cell_saved.cells, cell_saved.carried, true, q.units, padded};
  const VariantBackward task = {steps.view(),
                                q.units,
                                q.state_size,
                                padded,
                                {cell.recurrent_activation},
                                {cell.activation},
                                cell.zoneout_h,
                                cell.zoneout_c,
                                q.h_scale,
                                q.recurrent_kernel,
                                variant,
                                cells,
                                saved.gates,
                                variant_saved.x_product,
                                variant_saved.h_product,
                                variant_saved.statistics,
                                d_outputs.get(),
                                dy.h,
                                cell_out.dc,
                                out.h0,
                                cell_out.dc0,
                                products.get(),
                                kept.get(),
                                d_projected.get(),
                                y.get(),
                                d_y.get(),
                                dc.get(),
                                dx_product.get(),
                                one_product ? dx_product.get() : dh_product.get(),
                                dz.get(),
                                bias.sums.get(),
                                gamma_x.sums.get(),
                                gamma_h.sums.get(),
                                gamma_c.sums.get(),
                                beta_c.sums.get(),
                                nullptr,
                                nullptr};
  if (!launch_variant_backward(q, task)) {
    backward_steps_of(q, task);
    gpu::launch(q.op, each_row(batch), end_rows, task);
  }
  bias.end();
  gamma_x.end();
  gamma_h.end();
  gamma_c.end();
  beta_c.end();
  if (out.kernel != nullptr) {
    const recurrent::InputRows x(q, task.steps);
    recurrent::multiply(q.op, q.inputs, width, rows, {x.get(), 1, q.inputs},
                        {task.dx_product, width, 1}, nullptr, out.kernel, width);
  }
  if (out.recurrent_kernel != nullptr) {
    recurrent::multiply(q.op, q.state_size, width, rows,
                        {saved.states, 1, recurrent::ceil_units(q.state_size)},
                        {task.dh_product, width, 1}, nullptr, out.recurrent_kernel, width);
  }
  if (needs_y) {
    recurrent::multiply(q.op, q.units, q.state_size, rows, {y.get(), 1, q.units},
                        {d_projected.get(), q.state_size, 1}, nullptr,
                        variant_out.projection_kernel, q.state_size);
  }
  if (out.x != nullptr) {
    recurrent::input_gradients(q, task.steps, width, task.dx_product, out.x);
  }
}

}  // namespace lamella::lstm
