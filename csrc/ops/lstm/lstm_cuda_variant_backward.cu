// Backward pass of the LSTM with layer normalization and projection: back through the steps, each
// a kernel that takes the gradient of h apart, with a projection its product, a kernel from the
// gradient of the output to those of the products, a block a row, and the product of h. Then dx and
// the kernels' gradients as one product each over all steps. Gradients of vectors are summed for
// each sequence on the way, and over the sequences at the end.
#include "ops/lstm/lstm_cuda_variant.cuh"

namespace lamella::lstm {
namespace {

using recurrent::Place;

struct VariantBackward {
  recurrent::StepsView steps;
  std::int64_t units, state_size, padded;
  recurrent::Gate gate;
  recurrent::Candidate candidate;
  Zoneout zoneout_h, zoneout_c;
  const float* h_scale;
  Variant v;
  CellRows cells;
  const float* gates;       // kept rows
  const float* x_product;   // likewise, with gamma_x
  const float* h_product;   // likewise, with gamma_h
  const float* statistics;  // likewise, where normalized
  const float* d_outputs;   // OutputGradients
  const float* dh;          // (N,P) or null
  const float* dc_last;     // (N,U) or null
  float* dh0;               // (N,P) or null
  float* dc0;               // (N,U) or null
  float* products;          // (N,P): the gradient of h that came through the product
  float* kept;              // (N,P): past the product; null without zoneout of h
  float* d_projected;       // kept rows of P, with a projection
  float* y;                 // kept rows of U, where its projection's gradient is wanted
  float* dy;                // (N,U): of y, then of c' as far as it comes from there
  float* dc;                // (N,U)
  float* dx_product;        // kept rows of 4U
  float* dh_product;        // likewise; the same where neither product is normalized
  float* dz;                // (N,4U), where both are
  // Sums for each sequence, (N, ...); null where not wanted.
  float* d_bias;
  float* d_gamma_x;
  float* d_gamma_h;
  float* d_gamma_c;
  float* d_beta_c;

  // Of h before the step that was last gone back through.
  __device__ float state_before(std::int64_t row, std::int64_t n, std::int64_t u) const {
    float d = products[row * state_size + u];
    if (h_scale != nullptr) d *= h_scale[n * state_size + u];
    return kept == nullptr ? d : d + kept[row * state_size + u];
  }
};

// The gradient of h' in front of zoneout.
__global__ void leave_state(VariantBackward t, std::int64_t j, std::int64_t active) {
  const std::int64_t size = active * t.state_size;
  for (std::int64_t i = gpu::grid_thread(); i < size; i += gpu::grid_threads()) {
    const std::int64_t row = i / t.state_size;
    const std::int64_t u = i - row * t.state_size;
    const Place at(t.steps, j, row);
    float dh = 0.0f;
    if (t.d_outputs != nullptr) {
      dh = t.d_outputs[(t.steps.all ? at.output : at.kept) * t.state_size + u];
    }
    if (!at.last) {
      dh += t.state_before(row, at.n, u);
    } else if (t.dh != nullptr) {
      dh += t.dh[at.n * t.state_size + u];
    }
    if (t.zoneout_h.on()) {
      const Zone zone(t.zoneout_h, at.t * t.state_size + u);
      t.kept[i] = zone.of_before(dh);
      dh = zone.of_after(dh);
    }
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

// Sums of a sequence begin with its last step.
__device__ inline void add_to(float* sum, bool begins, float d) {
  *sum = begins ? d : *sum + d;
}

// From the gradient of y those of o and of c' as far as it comes from y, in the place of dy.
__device__ void output_back(const VariantBackward& t, const Place& at, float* dz, TwoSums* shared) {
  const std::int64_t units = t.units;
  const Variant& v = t.v;
  const float* const statistics =
      t.statistics == nullptr ? nullptr : t.statistics + at.kept * statistics_floats;
  const RowStatistics of = RowStatistics::kept(v.gamma_c, statistics, of_c);
  const float* const o_row = t.gates + at.kept * 4 * units + 3 * units;
  const float* const cells = t.cells.cells + at.kept * t.padded;
  float* const dy = t.dy + at.row * units;
  TwoSums sums = {0.0f, 0.0f};
  for (std::int64_t u = threadIdx.x; u < units; u += row_threads) {
    const float d = dy[u];
    const float o = t.gate.of(o_row[u]);
    float c = cells[u];
    const float unit = of.unit(c);
    if (v.gamma_c != nullptr) {
      c = fmaf(v.gamma_c[u], unit, v.beta_c == nullptr ? 0.0f : v.beta_c[u]);
    }
    const float squashed = t.candidate(c);
    if (t.y != nullptr) t.y[at.kept * units + u] = o * squashed;
    dz[3 * units + u] = t.gate.gradient(d * squashed, o_row[u]);
    float dc = t.candidate.gradient_at(d * o, c, squashed);
    if (v.gamma_c != nullptr) {
      const std::int64_t i = at.row * units + u;
      if (t.d_gamma_c != nullptr) add_to(t.d_gamma_c + i, at.last, dc * unit);
      if (t.d_beta_c != nullptr) add_to(t.d_beta_c + i, at.last, dc);
      dc *= v.gamma_c[u];
      sums.d += dc;
      sums.du = fmaf(dc, unit, sums.du);
    }
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

// The gradients of i, f and g, and in place that of c before the step.
__device__ void gates_back(const VariantBackward& t, const Place& at, float* dz) {
  const std::int64_t units = t.units;
  const float* const gates = t.gates + at.kept * 4 * units;
  for (std::int64_t u = threadIdx.x; u < units; u += row_threads) {
    const std::int64_t i = at.row * units + u;
    float dc = t.dc[i];
    if (at.last) dc = t.dc_last == nullptr ? 0.0f : t.dc_last[at.n * units + u];
    float passed = 0.0f;
    if (t.zoneout_c.on()) {
      const Zone zone(t.zoneout_c, at.t * units + u);
      passed = zone.of_before(dc);
      dc = zone.of_after(dc);
    }
    dc += t.dy[i];
    const float forget = gates[units + u];
    const float g = gates[2 * units + u];
    dz[u] = t.gate.gradient(dc * t.candidate.of(g), gates[u]);
    dz[units + u] = t.gate.gradient(dc * t.cells.before(at, u), forget);
    dz[2 * units + u] = t.candidate.gradient(dc * t.gate.of(gates[u]), g);
    dc = fmaf(dc, t.gate.of(forget), passed);
    t.dc[i] = dc;
    if (at.j == 0 && t.dc0 != nullptr) t.dc0[at.n * units + u] = dc;
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
  gates_back(t, at, dz);
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
  const std::int64_t n = t.steps.sequence_of(row);
  const bool empty = t.steps.length_of(row) == 0;
  if (t.dh0 != nullptr) {
    for (std::int64_t u = threadIdx.x; u < t.state_size; u += row_threads) {
      const std::int64_t i = n * t.state_size + u;
      float d = t.dh0[i];  // of outputs in front of the first step
      if (!empty) {
        d += t.state_before(row, n, u);
      } else if (t.dh != nullptr) {
        d += t.dh[i];
      }
      t.dh0[i] = d;
    }
  }
  if (!empty) return;
  for (std::int64_t u = threadIdx.x; u < t.units; u += row_threads) {
    const std::int64_t i = n * t.units + u;
    if (t.dc0 != nullptr) t.dc0[i] = t.dc_last == nullptr ? 0.0f : t.dc_last[i];
    if (t.d_gamma_c != nullptr) t.d_gamma_c[row * t.units + u] = 0.0f;
    if (t.d_beta_c != nullptr) t.d_beta_c[row * t.units + u] = 0.0f;
  }
  const std::int64_t width = 4 * t.units;
  for (std::int64_t k = threadIdx.x; k < width; k += row_threads) {
    const std::int64_t i = row * width + k;
    if (t.d_bias != nullptr) t.d_bias[i] = 0.0f;
    if (t.d_gamma_x != nullptr) t.d_gamma_x[i] = 0.0f;
    if (t.d_gamma_h != nullptr) t.d_gamma_h[i] = 0.0f;
  }
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
                                beta_c.sums.get()};
  backward_steps_of(q, task);
  gpu::launch(q.op, each_row(batch), end_rows, task);
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
