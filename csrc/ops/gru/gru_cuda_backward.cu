// GRU backward: the cells of recurrent/backward.cuh.
#include "cuda/kernel.cuh"
#include "ops/gru/gru_cuda.cuh"
#include "recurrent/backward.cuh"

namespace lamella::gru {
namespace {

using recurrent::BackwardTask;
using recurrent::Place;

struct GruBackward : Functions {
  const float* states;  // h as it entered the product

  __device__ float operand(const Place& at, std::int64_t u) const {
    return states[at.kept * padded + u];
  }
  __device__ float h_before(const Place& at, std::int64_t u) const {
    return Functions::before == nullptr ? operand(at, u) : Functions::before[at.kept * padded + u];
  }
  __device__ void carry_back(const BackwardTask&, std::int64_t, std::int64_t) const {}
};

struct ResetAfterBack : GruBackward, AfterShape {
  struct Before {
    float h, q;
  };

  __device__ Before before(const BackwardTask&, int, const Place& at, std::int64_t u) const {
    return {h_before(at, u), second[at.kept * padded + u]};
  }
  __device__ unsigned point(const BackwardTask&, int, const Place&, std::int64_t, float dh, float,
                            const float (&kept_gates)[gates], const Before& b, float& kept,
                            float (&dz)[gates], float (&dq)[gates]) const {
    const float z = gate.of(kept_gates[0]);
    dz[0] = gate.gradient(dh * (b.h - candidate.of(kept_gates[2])), kept_gates[0]);
    dz[2] = candidate.gradient(dh * (1.0f - z), kept_gates[2]);
    dz[1] = gate.gradient(dz[2] * b.q, kept_gates[1]);
    dq[0] = dz[0];
    dq[1] = dz[1];
    dq[2] = dz[2] * gate.of(kept_gates[1]);
    kept = dh * z;
    return 7u;
  }
};

struct ResetBeforeBack : GruBackward, BeforeShape {
  struct Before {
    float h;    // phase 0: as it entered the product
    float d_z;  // which phase 1 found, for phase 0
  };

  __device__ Before before(const BackwardTask& t, int phase, const Place& at,
                           std::int64_t u) const {
    if (phase == 1) return {h_before(at, u), 0.0f};
    return {operand(at, u), t.dz[at.kept * gates * t.units + u]};
  }
  __device__ unsigned point(const BackwardTask&, int phase, const Place&, std::int64_t, float d,
                            float scale, const float (&kept_gates)[gates], const Before& b,
                            float& kept, float (&dz)[gates], float (&)[gates]) const {
    if (phase == 1) {
      const float z = gate.of(kept_gates[0]);
      dz[0] = gate.gradient(d * (b.h - candidate.of(kept_gates[2])), kept_gates[0]);
      dz[2] = candidate.gradient(d * (1.0f - z), kept_gates[2]);
      kept = d * z;
      return 5u;
    }
    dz[0] = b.d_z;
    dz[1] = gate.gradient(d * b.h, kept_gates[1]);
    kept = fmaf(d * scale, gate.of(kept_gates[1]), kept);
    return 3u;
  }
};

}  // namespace

void device_backward(const recurrent::Sequence& q, const Cell& cell,
                     const recurrent::Results& saved, const float* before,
                     const recurrent::ResultGradients& dy, const recurrent::Gradients& out) {
  const recurrent::DeviceSteps steps(q.op, *q.steps);
  const GruBackward f = {{{cell.recurrent_activation},
                          {cell.activation},
                          saved.second,
                          const_cast<float*>(before),
                          recurrent::ceil_units(q.units)},
                         saved.states};
  if (cell.reset_after) {
    backward_sequence(q, saved, dy, out, ResetAfterBack{f, {}}, true, steps);
  } else {
    backward_sequence(q, saved, dy, out, ResetBeforeBack{f, {}}, true, steps);
  }
}

}  // namespace lamella::gru
