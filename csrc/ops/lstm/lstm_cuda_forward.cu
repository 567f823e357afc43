// LSTM forward: the cell of recurrent/forward.cuh.
#include "cuda/kernel.cuh"
#include "ops/lstm/lstm_cuda.cuh"
#include "recurrent/forward.cuh"

namespace lamella::lstm {
namespace {

using recurrent::ForwardTask;
using recurrent::Place;

struct LstmForward {
  static constexpr int gates = 4;
  static constexpr int phases = 1;
  static constexpr bool separate = false;
  __host__ __device__ static constexpr int first_gate(int) { return 0; }
  __host__ __device__ static constexpr int end_gate(int) { return gates; }

  struct Before {
    float c, h;
  };

  recurrent::Gate gate;
  recurrent::Candidate candidate;
  Zoneout zoneout_h, zoneout_c;
  CellRows cells;
  float* c;

  __device__ Before before(const ForwardTask& t, int, const Place& at, std::int64_t u) const {
    return {cells.before(at, u), zoneout_h.on() ? t.h_before(at, u) : 0.0f};
  }

  __device__ float point(const ForwardTask& t, int, const Place& at, std::int64_t u,
                         float (&z)[gates], const float (&)[gates], const Before& before) const {
    const float i = gate(z[0]);
    const float forget = gate(z[1]);
    const float g = candidate(z[2]);
    const float o = gate(z[3]);
    z[0] = gate.keep(z[0], i);
    z[1] = gate.keep(z[1], forget);
    z[2] = candidate.keep(z[2], g);
    z[3] = gate.keep(z[3], o);
    const float c_new = fmaf(forget, before.c, i * g);
    float h = o * candidate(c_new);
    float after = c_new;
    const std::int64_t zone = at.t * t.units + u;
    if (zoneout_c.on()) after = Zone(zoneout_c, zone).mix(before.c, c_new);
    cells.put(at, u, c_new, after);
    if (at.last) c[at.n * t.units + u] = after;
    if (zoneout_h.on()) h = Zone(zoneout_h, zone).mix(before.h, h);
    return h;
  }

  __device__ void carry(const ForwardTask& t, std::int64_t n, std::int64_t u) const {
    const std::int64_t i = n * t.units + u;
    c[i] = cells.c0 == nullptr ? 0.0f : cells.c0[i];
  }
};

}  // namespace

void device_forward(const recurrent::Sequence& q, const Cell& cell, const recurrent::Results& out,
                    const CellResults& cell_out) {
  const recurrent::DeviceSteps steps(q.op, *q.steps);
  const std::int64_t padded = recurrent::ceil_units(q.units);
  const bool keeps = cell_out.cells != nullptr;
  const Scratch<float> own(q.op, keeps ? 0 : q.steps->batch() * padded);
  const CellRows cells = {
      cell.c0, keeps ? cell_out.cells : own.get(), cell_out.carried, keeps, q.units, padded};
  forward_sequence(q, out,
                   LstmForward{{cell.recurrent_activation},
                               {cell.activation},
                               cell.zoneout_h,
                               cell.zoneout_c,
                               cells,
                               cell_out.c},
                   steps);
}

namespace device {

extern const Kernels kernels = {device_forward, device_backward, device_variant_forward,
                                device_variant_backward};

}  // namespace device

}  // namespace lamella::lstm
