// The task of both forms of the variant's backward pass: all steps in one launch, or one by one.
#pragma once

#include "ops/lstm/lstm_cuda_variant.cuh"

namespace lamella::lstm {

// Sums of a sequence begin with its last step.
__device__ inline void add_to(float* sum, bool begins, float d) {
  *sum = begins ? d : *sum + d;
}

struct VariantBackward {
  recurrent::StepsView steps;
  std::int64_t units, state_size, padded;
  recurrent::Gate gate;
  recurrent::Candidate candidate;
  Zoneout zoneout_h, zoneout_c;
  const float* h_scale;
  const float* recurrent_kernel;
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

  // Of blocks that share rows, in one launch: what recurrent/backward.cuh exchanges, of h and of y,
  // and sums over a row's units.
  float* parts;
  unsigned* arrivals;

  // Of h before the step that was last gone back through, which came through `product`.
  __device__ float state_before(std::int64_t row, std::int64_t n, std::int64_t u,
                                float product) const {
    if (h_scale != nullptr) product *= h_scale[n * state_size + u];
    return kept == nullptr ? product : product + kept[row * state_size + u];
  }

  // The gradient of h' in front of zoneout; `product` of the step behind, unless it is the last.
  __device__ float leave_state(const recurrent::Place& at, std::int64_t u, float product) const {
    float d = 0.0f;
    if (d_outputs != nullptr) d = d_outputs[(steps.all ? at.output : at.kept) * state_size + u];
    if (!at.last) {
      d += state_before(at.row, at.n, u, product);
    } else if (dh != nullptr) {
      d += dh[at.n * state_size + u];
    }
    if (zoneout_h.on()) {
      const Zone zone(zoneout_h, at.t * state_size + u);
      kept[at.row * state_size + u] = zone.of_before(d);
      d = zone.of_after(d);
    }
    return d;
  }

  // From the gradient d of y that of o, and dc of what was normalized, times gamma: `unit`.
  struct OutputBack {
    float dz, dc, unit;
  };
  __device__ OutputBack output_back(const recurrent::Place& at, std::int64_t u, float d,
                                    float c_new, const RowStatistics& of) const {
    const float kept_o = gates[(at.kept * 4 + 3) * units + u];
    const float o = gate.of(kept_o);
    const float unit = of.unit(c_new);
    if (v.gamma_c != nullptr) {
      c_new = fmaf(v.gamma_c[u], unit, v.beta_c == nullptr ? 0.0f : v.beta_c[u]);
    }
    const float squashed = candidate(c_new);
    if (y != nullptr) y[at.kept * units + u] = o * squashed;
    float d_c = candidate.gradient_at(d * o, c_new, squashed);
    if (v.gamma_c != nullptr) {
      const std::int64_t i = at.row * units + u;
      if (d_gamma_c != nullptr) add_to(d_gamma_c + i, at.last, d_c * unit);
      if (d_beta_c != nullptr) add_to(d_beta_c + i, at.last, d_c);
      d_c *= v.gamma_c[u];
    }
    return {gate.gradient(d * squashed, kept_o), d_c, unit};
  }

  // The gradients of i, f and g, and in place that of c before the step; from_y: that of c' as far
  // as it comes from y.
  __device__ void gates_back(const recurrent::Place& at, std::int64_t u, float from_y,
                             float (&dz_of)[3]) const {
    const std::int64_t i = at.row * units + u;
    float d = 0.0f;
    if (!at.last) {
      d = dc[i];
    } else if (dc_last != nullptr) {
      d = dc_last[at.n * units + u];
    }
    float passed = 0.0f;
    if (zoneout_c.on()) {
      const Zone zone(zoneout_c, at.t * units + u);
      passed = zone.of_before(d);
      d = zone.of_after(d);
    }
    d += from_y;
    const float* const gate_row = gates + at.kept * 4 * units + u;
    const float kept_i = gate_row[0];
    const float forget = gate_row[units];
    const float g = gate_row[2 * units];
    dz_of[0] = gate.gradient(d * candidate.of(g), kept_i);
    dz_of[1] = gate.gradient(d * cells.before(at, u), forget);
    dz_of[2] = candidate.gradient(d * gate.of(kept_i), g);
    d = fmaf(d, gate.of(forget), passed);
    dc[i] = d;
    if (at.j == 0 && dc0 != nullptr) dc0[at.n * units + u] = d;
  }

  // After all steps: the gradients of h0 and c0, and the sums of sequences without steps.
  __device__ void end_state(std::int64_t row, std::int64_t u, float product) const {
    if (dh0 == nullptr) return;
    const std::int64_t n = steps.sequence_of(row);
    const std::int64_t i = n * state_size + u;
    if (steps.length_of(row) > 0) {
      dh0[i] += state_before(row, n, u, product);
    } else if (dh != nullptr) {
      dh0[i] += dh[i];
    }
  }
  __device__ void end_unit(std::int64_t row, std::int64_t u) const {
    if (steps.length_of(row) > 0) return;
    const std::int64_t i = steps.sequence_of(row) * units + u;
    if (dc0 != nullptr) dc0[i] = dc_last == nullptr ? 0.0f : dc_last[i];
    if (d_gamma_c != nullptr) d_gamma_c[row * units + u] = 0.0f;
    if (d_beta_c != nullptr) d_beta_c[row * units + u] = 0.0f;
    for (int g = 0; g < 4; ++g) {
      const std::int64_t k = (row * 4 + g) * units + u;
      if (d_bias != nullptr) d_bias[k] = 0.0f;
      if (d_gamma_x != nullptr) d_gamma_x[k] = 0.0f;
      if (d_gamma_h != nullptr) d_gamma_h[k] = 0.0f;
    }
  }
};

// All steps in one launch, h0 and c0 with them; false where the weights do not fit on chip.
bool launch_variant_backward(const recurrent::Sequence& q, const VariantBackward& task);

}  // namespace lamella::lstm
