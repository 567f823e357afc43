// What the LSTM's device sources share: zoneout, its entry points, the cell before a step.
#pragma once

#include "ops/lstm/lstm.h"
#include "recurrent/steps.cuh"

namespace lamella::lstm {

// Zoneout of a unit of one state at a step.
struct Zone {
  float rate;
  bool mask, keeps;

  __device__ Zone(const Zoneout& z, std::int64_t at)
      : rate(z.rate), mask(z.kept != nullptr), keeps(mask && z.kept[at] != 0) {}
  __device__ float mix(float before, float after) const {
    if (mask) return keeps ? before : after;
    return rate * before + (1.0f - rate) * after;
  }
  // The parts of a gradient that go to the value before and after.
  __device__ float of_before(float d) const { return mask ? (keeps ? d : 0.0f) : rate * d; }
  __device__ float of_after(float d) const { return mask ? (keeps ? 0.0f : d) : (1.0f - rate) * d; }
};

// Rows of c' and of c after zoneout, and c before a step.
struct CellRows {
  const float* c0;  // (N,U) or null
  float* cells;     // kept rows of padded units; where nothing is kept rows of c after zoneout
  float* carried;   // kept rows, or null: cells
  bool keeps;
  std::int64_t units, padded;

  __device__ float before(const recurrent::Place& at, std::int64_t u) const {
    if (at.j == 0) return c0 == nullptr ? 0.0f : c0[at.n * units + u];
    if (!keeps) return cells[at.row * padded + u];
    return (carried != nullptr ? carried : cells)[at.kept_before * padded + u];
  }
  __device__ void put(const recurrent::Place& at, std::int64_t u, float c, float after) const {
    if (!keeps) {
      cells[at.row * padded + u] = after;
      return;
    }
    cells[at.kept * padded + u] = c;
    if (carried != nullptr) carried[at.kept * padded + u] = after;
  }
};

void device_forward(const recurrent::Sequence& q, const Cell& cell, const recurrent::Results& out,
                    const CellResults& cell_out);
void device_backward(const recurrent::Sequence& q, const Cell& cell,
                     const recurrent::Results& saved, const CellResults& cell_saved,
                     const recurrent::ResultGradients& dy, const recurrent::Gradients& out,
                     const CellGradients& cell_out);
void device_variant_forward(const recurrent::Sequence& q, const Cell& cell, const Variant& variant,
                            const recurrent::Results& out, const CellResults& cell_out,
                            const VariantResults& kept);
void device_variant_backward(const recurrent::Sequence& q, const Cell& cell, const Variant& variant,
                             const recurrent::Results& saved, const CellResults& cell_saved,
                             const VariantResults& variant_saved,
                             const recurrent::ResultGradients& dy, const recurrent::Gradients& out,
                             const CellGradients& cell_out, const VariantGradients& variant_out);

}  // namespace lamella::lstm
