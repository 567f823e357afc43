// LSTM backward: the cell of recurrent/backward.cuh.
#include "cuda/kernel.cuh"
#include "ops/lstm/lstm_cuda.cuh"
#include "recurrent/backward.cuh"

namespace lamella::lstm {
namespace {

using recurrent::BackwardTask;
using recurrent::Place;

struct LstmBackward {
  static constexpr int gates = 4;
  static constexpr int phases = 1;
  static constexpr bool separate = false;
  __host__ __device__ static constexpr int first_gate(int) { return 0; }
  __host__ __device__ static constexpr int end_gate(int) { return gates; }

  struct Before {
    float c, c_before, dc;
  };

  recurrent::Gate gate;
  recurrent::Candidate candidate;
  Zoneout zoneout_h, zoneout_c;
  CellRows cells;
  const float* dc_last;  // (N,U) or null
  float* dc;             // (N,U) in the order of rows
  float* dc0;            // (N,U) or null: not wanted

  __device__ Before before(const BackwardTask& t, int, const Place& at, std::int64_t u) const {
    float d = 0.0f;
    if (!at.last) {
      d = dc[at.row * t.units + u];
    } else if (dc_last != nullptr) {
      d = dc_last[at.n * t.units + u];
    }
    return {cells.cells[at.kept * cells.padded + u], cells.before(at, u), d};
  }

  __device__ unsigned point(const BackwardTask& t, int, const Place& at, std::int64_t u, float dh,
                            float, const float (&gates_kept)[gates], const Before& before,
                            float& kept, float (&dz)[gates], float (&)[gates]) const {
    const std::int64_t zone = at.t * t.units + u;
    if (zoneout_h.on()) {
      const Zone z(zoneout_h, zone);
      kept = z.of_before(dh);
      dh = z.of_after(dh);
    }
    float d = before.dc;
    float d_kept = 0.0f;
    if (zoneout_c.on()) {
      const Zone z(zoneout_c, zone);
      d_kept = z.of_before(d);
      d = z.of_after(d);
    }
    const float i = gates_kept[0];
    const float forget = gates_kept[1];
    const float g = gates_kept[2];
    const float o = gates_kept[3];
    const float squashed = candidate(before.c);
    d += candidate.gradient_at(dh * gate.of(o), before.c, squashed);
    dz[0] = gate.gradient(d * candidate.of(g), i);
    dz[1] = gate.gradient(d * before.c_before, forget);
    dz[2] = candidate.gradient(d * gate.of(i), g);
    dz[3] = gate.gradient(dh * squashed, o);
    d = fmaf(d, gate.of(forget), d_kept);
    dc[at.row * t.units + u] = d;
    if (at.j == 0 && dc0 != nullptr) dc0[at.n * t.units + u] = d;
    return 0xFu;
  }

  __device__ void carry_back(const BackwardTask& t, std::int64_t n, std::int64_t u) const {
    const std::int64_t i = n * t.units + u;
    if (dc0 != nullptr) dc0[i] = dc_last == nullptr ? 0.0f : dc_last[i];
  }
};

}  // namespace

void device_backward(const recurrent::Sequence& q, const Cell& cell,
                     const recurrent::Results& saved, const CellResults& cell_saved,
                     const recurrent::ResultGradients& dy, const recurrent::Gradients& out,
                     const CellGradients& cell_out) {
  const recurrent::DeviceSteps steps(q.op, *q.steps);
  const Scratch<float> dc(q.op, q.steps->batch() * q.units);
  const CellRows cells = {cell.c0, cell_saved.cells, cell_saved.carried,
                          true,    q.units,          recurrent::ceil_units(q.units)};
  backward_sequence(q, saved, dy, out,
                    LstmBackward{{cell.recurrent_activation},
                                 {cell.activation},
                                 cell.zoneout_h,
                                 cell.zoneout_c,
                                 cells,
                                 cell_out.dc,
                                 dc.get(),
                                 cell_out.dc0},
                    cell.zoneout_h.on(), steps);
}

}  // namespace lamella::lstm
