// What the recurrent ops of the device have in common around their steps. The copies are bound by
// memory, the products are the GEMM core's.
#include "recurrent/sequence.cuh"

#include "cuda/gemm.cuh"
#include "cuda/gemm_finish.cuh"
#include "cuda/gemm_fma.cuh"
#include "cuda/gemm_skinny.cuh"
#include "cuda/sum_axis.cuh"

namespace lamella::recurrent {

namespace gemm = device::gemm;

namespace {

gemm::Store store(float* c, std::int64_t step, const float* bias) {
  return {c, {}, step, device::aligned_for_vectors(c) && step % 4 == 0, false, bias};
}

template <bool a_along_rows, bool b_along_rows>
void tiled_product(const char* op, const gemm::Problem& p, const gemm::Matrix& a,
                   const gemm::Matrix& b, const gemm::Store& finish) {
  gemm::product(gemm::FmaTiles{}, op, p, gemm::operand<a_along_rows>(a, p.m, p.k),
                gemm::operand<b_along_rows>(b, p.n, p.k), finish);
}

constexpr int copy_block = 256;

// The packed row of a grid's block, and its place. Steps by bisection: kept rows are ordered by
// them.
__device__ Place place_of(const StepsView& s, std::int64_t packed) {
  if (s.all) {
    const std::int64_t row = packed / s.time;
    return Place(s, s.time_at(packed - row * s.time), row);
  }
  std::int64_t low = 0, high = s.count - 1;
  while (low < high) {
    const std::int64_t middle = (low + high + 1) / 2;
    if (s.offset[middle] <= packed) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return Place(s, low, packed - s.offset[low]);
}

// to (rows, D) = x x_scale, a kept row a block.
__global__ void __launch_bounds__(copy_block)
    gather_inputs(StepsView s, std::int64_t inputs, const float* x, const float* scale, float* to) {
  const Place at = place_of(s, blockIdx.x);
  const float* const from = x + at.t * inputs;
  float* const row = to + at.kept * inputs;
  const float* const factors = scale == nullptr ? nullptr : scale + at.n * inputs;
  for (std::int64_t d = threadIdx.x; d < inputs; d += copy_block) {
    row[d] = factors == nullptr ? from[d] : from[d] * factors[d];
  }
}

// dx (N,T,D) = the kept rows' gradients times x_scale, a kept row a block.
__global__ void __launch_bounds__(copy_block)
    scatter_inputs(StepsView s, std::int64_t inputs, const float* from, const float* scale,
                   float* dx) {
  const Place at = place_of(s, blockIdx.x);
  const float* const row = from + at.kept * inputs;
  float* const to = dx + at.t * inputs;
  const float* const factors = scale == nullptr ? nullptr : scale + at.n * inputs;
  for (std::int64_t d = threadIdx.x; d < inputs; d += copy_block) {
    to[d] = factors == nullptr ? row[d] : row[d] * factors[d];
  }
}

// A thread for a feature of a row: its outputs one after the other.
__global__ void __launch_bounds__(copy_block)
    repeat_rows(StepsView s, std::int64_t width, const float* h0, float* outputs) {
  const std::int64_t size = s.batch * width;
  for (std::int64_t i = device::grid_thread(); i < size; i += device::grid_threads()) {
    const std::int64_t row = i / width;
    const std::int64_t u = i - row * width;
    const std::int64_t n = s.sequence_of(row);
    float* const to = outputs + n * s.time * width + u;
    float carried = h0 == nullptr ? 0.0f : h0[n * width + u];
    std::int64_t position = 0;
    for (std::int64_t j = 0; j <= s.length_of(row); ++j) {
      const std::int64_t next = j < s.length_of(row) ? s.position_of(j, row) : s.time;
      for (; position < next; ++position) to[position * width] = carried;
      if (next < s.time) carried = to[next * width];
      ++position;
    }
  }
}

// Likewise for the outputs' gradients.
__global__ void __launch_bounds__(copy_block)
    gather_gradients(StepsView s, std::int64_t width, const float* d_outputs, float* to,
                     float* dh0) {
  const std::int64_t size = s.batch * width;
  for (std::int64_t i = device::grid_thread(); i < size; i += device::grid_threads()) {
    const std::int64_t row = i / width;
    const std::int64_t u = i - row * width;
    const std::int64_t n = s.sequence_of(row);
    const float* const from = d_outputs + n * s.time * width + u;
    std::int64_t position = 0;
    for (std::int64_t j = -1; j < s.length_of(row); ++j) {
      const std::int64_t end = j + 1 < s.length_of(row) ? s.position_of(j + 1, row) : s.time;
      float sum = 0.0f;
      for (; position < end; ++position) sum += from[position * width];
      if (j >= 0) {
        to[(s.offset[j] + row) * width + u] = sum;
      } else if (dh0 != nullptr) {
        dh0[n * width + u] = sum;
      }
    }
  }
}

unsigned blocks(std::int64_t rows) {
  return static_cast<unsigned>(rows);
}

}  // namespace

void multiply(const char* op, std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a,
              const Matrix& b, const float* bias, float* c, std::int64_t c_step) {
  const gemm::Problem problem = {m, n, k};
  const gemm::Matrix left = {a.data, {}, true, a.row_step, a.column_step};
  const gemm::Matrix right = {b.data, {}, true, b.column_step, b.row_step};
  const gemm::Store to = store(c, c_step, bias);
  if (gemm::skinny_product(op, problem, left, right, to)) return;
  if (a.column_step != 1) return tiled_product<true, true>(op, problem, left, right, to);
  if (b.column_step == 1) return tiled_product<false, true>(op, problem, left, right, to);
  tiled_product<false, false>(op, problem, left, right, to);
}

void sum_rows(const char* op, std::int64_t rows, std::int64_t n, const float* a, float* to) {
  device::bias_gradient(op, a, rows, n, to);
}

InputRows::InputRows(const Sequence& q, const StepsView& steps)
    : own_(q.op, steps.all && q.x_scale == nullptr ? 0 : q.steps->packed_rows() * q.inputs),
      rows_(own_.get() != nullptr ? own_.get() : q.x) {
  if (own_.get() == nullptr) return;
  device::launch(q.op, {dim3(blocks(q.steps->packed_rows())), dim3(copy_block)}, gather_inputs,
                 steps, q.inputs, q.x, q.x_scale, own_.get());
}

void multiply_inputs(const Sequence& q, const StepsView& steps, std::int64_t width,
                     const float* bias, float* to) {
  const InputRows x(q, steps);
  // In tiles, however few the rows: their number does not change a row's bits.
  tiled_product<false, true>(q.op, {q.steps->packed_rows(), width, q.inputs},
                             {x.get(), {}, true, q.inputs, 1}, {q.kernel, {}, true, 1, width},
                             store(to, width, bias));
}

void input_gradients(const Sequence& q, const StepsView& steps, std::int64_t width, const float* dz,
                     float* dx) {
  const std::int64_t rows = q.steps->packed_rows();
  const bool in_place = steps.all && q.x_scale == nullptr;
  const Scratch<float> own(q.op, in_place ? 0 : rows * q.inputs);
  multiply(q.op, rows, q.inputs, width, {dz, width, 1}, {q.kernel, 1, width}, nullptr,
           in_place ? dx : own.get(), q.inputs);
  if (in_place) return;
  if (!steps.all) {
    // Masked steps have no gradient.
    const std::int64_t size = steps.batch * steps.time * q.inputs;
    device::fill_bytes(dx, 0, static_cast<std::size_t>(size) * sizeof(float));
  }
  device::launch(q.op, {dim3(blocks(rows)), dim3(copy_block)}, scatter_inputs, steps, q.inputs,
                 own.get(), q.x_scale, dx);
}

void repeat_carried(const Sequence& q, const StepsView& steps, std::int64_t width, float* outputs) {
  if (steps.all) return;
  device::launch(q.op, device::elements(steps.batch * width, 1), repeat_rows, steps, width, q.h0,
                 outputs);
}

OutputGradients::OutputGradients(const Sequence& q, const StepsView& steps, std::int64_t width,
                                 const float* d_outputs, float* dh0)
    : own_(q.op, d_outputs == nullptr || steps.all ? 0 : q.steps->packed_rows() * width),
      rows_(d_outputs == nullptr || steps.all ? d_outputs : own_.get()) {
  if (d_outputs == nullptr || steps.all) {
    if (dh0 != nullptr) {
      device::fill_bytes(dh0, 0, static_cast<std::size_t>(steps.batch * width) * sizeof(float));
    }
    return;
  }
  device::launch(q.op, device::elements(steps.batch * width, 1), gather_gradients, steps, width,
                 d_outputs, own_.get(), dh0);
}

}  // namespace lamella::recurrent
