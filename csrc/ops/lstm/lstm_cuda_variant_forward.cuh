// The task of both forms of the variant's forward pass: all steps in one launch, or one by one.
#pragma once

#include "ops/lstm/lstm_cuda_variant.cuh"

namespace lamella::lstm {

struct VariantForward {
  recurrent::StepsView steps;
  std::int64_t units, state_size, padded, padded_state;
  recurrent::Gate gate;
  recurrent::Candidate candidate;
  Zoneout zoneout_h, zoneout_c;
  const float* h0;
  const float* h_scale;
  const float* bias;
  const float* recurrent_kernel;
  Variant v;
  CellRows cells;
  bool keeps;
  float* x_product;   // kept rows of 4U: x W, with the bias unless it is normalized
  float* h_product;   // likewise with gamma_h; else rows of the step
  float* gates;       // kept rows, or null: not kept
  float* statistics;  // kept rows, or null where nothing is normalized
  float* y;           // rows of padded units, in front of the projection
  float* projected;   // rows of P
  float* states;      // kept rows of padded units, else two a row
  float* outputs;
  float* h;
  float* c;
  // Of blocks that share rows: statistics of their part of h's product and of c', (2, N, blocks,
  // 2).
  float* parts;
  unsigned* arrivals;

  __device__ float* operand(std::int64_t j, std::int64_t row) const {
    return states + (keeps ? steps.kept(j, row) : j % 2 * steps.batch + row) * padded_state;
  }
  // From its gates' arguments z what a step makes of a unit, kept where it is: c' and o.
  struct Unit {
    float c, o;
  };
  __device__ Unit step_cell(const recurrent::Place& at, std::int64_t u, const float (&z)[4]) const {
    const float i = gate(z[0]);
    const float forget = gate(z[1]);
    const float g = candidate(z[2]);
    const float o = gate(z[3]);
    if (gates != nullptr) {
      float* const gate_row = gates + at.kept * 4 * units + u;
      gate_row[0] = gate.keep(z[0], i);
      gate_row[units] = gate.keep(z[1], forget);
      gate_row[2 * units] = candidate.keep(z[2], g);
      gate_row[3 * units] = gate.keep(z[3], o);
    }
    const float before = cells.before(at, u);
    const float c_new = fmaf(forget, before, i * g);
    float after = c_new;
    if (zoneout_c.on()) after = Zone(zoneout_c, at.t * units + u).mix(before, c_new);
    cells.put(at, u, c_new, after);
    if (at.last) c[at.n * units + u] = after;
    return {c_new, o};
  }
  // o a(N(c')), which is h' where there is no projection.
  __device__ float output(std::int64_t u, float c_new, float o, const RowStatistics& of) const {
    if (v.gamma_c != nullptr) {
      c_new = fmaf(v.gamma_c[u], of.unit(c_new), v.beta_c == nullptr ? 0.0f : v.beta_c[u]);
    }
    return o * candidate(c_new);
  }
  // h' on its way out: zoneout, the outputs, and the next step, which multiplies the result.
  __device__ float emit(const recurrent::Place& at, std::int64_t u, float value) const {
    if (zoneout_h.on()) {
      float before = h0 == nullptr ? 0.0f : h0[at.n * state_size + u];
      if (at.j > 0) before = outputs[at.output_before * state_size + u];
      value = Zone(zoneout_h, at.t * state_size + u).mix(before, value);
    }
    outputs[at.output * state_size + u] = value;
    const std::int64_t i = at.n * state_size + u;
    if (at.last) {
      h[i] = value;
    } else {
      value = h_scale == nullptr ? value : value * h_scale[i];
      __stcg(operand(at.j + 1, at.row) + u, value);
    }
    return value;
  }
};

// All steps in one launch; false where the weights do not fit on chip.
bool launch_variant_forward(const recurrent::Sequence& q, const VariantForward& task);

}  // namespace lamella::lstm
