// What the GRU's device sources share: its gates with the reset gate after the product of h, and
// before it, where h is multiplied in two phases.
#pragma once

#include "ops/gru/gru.h"
#include "recurrent/gates.cuh"
#include "recurrent/steps.cuh"

namespace lamella::gru {

struct AfterShape {
  static constexpr int gates = 3;
  static constexpr int phases = 1;
  static constexpr bool separate = true;
  __host__ __device__ static constexpr int first_gate(int) { return 0; }
  __host__ __device__ static constexpr int end_gate(int) { return 3; }
};

struct BeforeShape {
  static constexpr int gates = 3;
  static constexpr int phases = 2;
  static constexpr bool separate = false;
  __host__ __device__ static constexpr int first_gate(int phase) { return phase == 0 ? 0 : 2; }
  __host__ __device__ static constexpr int end_gate(int phase) { return phase == 0 ? 2 : 3; }
};

struct Functions {
  recurrent::Gate gate;
  recurrent::Candidate candidate;
  float* second;  // kept rows of padded units: q_h with reset_after; null where nothing is kept
  float* before;  // likewise h before the step, with h_scale
  std::int64_t padded;
};

void device_backward(const recurrent::Sequence& q, const Cell& cell,
                     const recurrent::Results& saved, const float* before,
                     const recurrent::ResultGradients& dy, const recurrent::Gradients& out);

}  // namespace lamella::gru
