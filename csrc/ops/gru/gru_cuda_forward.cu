// GRU forward: the cells of recurrent/forward.cuh.
#include "cuda/kernel.cuh"
#include "ops/gru/gru_cuda.cuh"
#include "recurrent/forward.cuh"

namespace lamella::gru {
namespace {

using recurrent::ForwardTask;
using recurrent::Place;

struct GruForward : Functions {
  struct Before {
    float h;
  };

  __device__ Before before(const ForwardTask& t, int, const Place& at, std::int64_t u) const {
    return {t.h_before(at, u)};
  }
  __device__ void carry(const ForwardTask&, std::int64_t, std::int64_t) const {}

  // h' of z and n.
  __device__ float finish(const Place& at, std::int64_t u, float z, float n, float h) const {
    if (Functions::before != nullptr) Functions::before[at.kept * padded + u] = h;
    return fmaf(z, h - n, n);
  }
};

struct ResetAfter : GruForward, AfterShape {
  __device__ float point(const ForwardTask&, int, const Place& at, std::int64_t u,
                         float (&a)[gates], const float (&q)[gates], const Before& b) const {
    const float z_in = a[0] + q[0];
    const float r_in = a[1] + q[1];
    const float z = gate(z_in);
    const float r = gate(r_in);
    const float n_in = fmaf(r, q[2], a[2]);
    const float n = candidate(n_in);
    a[0] = gate.keep(z_in, z);
    a[1] = gate.keep(r_in, r);
    a[2] = candidate.keep(n_in, n);
    if (second != nullptr) second[at.kept * padded + u] = q[2];
    return finish(at, u, z, n, b.h);
  }
};

struct ResetBefore : GruForward, BeforeShape {
  __device__ float point(const ForwardTask& t, int phase, const Place& at, std::int64_t u,
                         float (&a)[gates], const float (&)[gates], const Before& b) const {
    if (phase == 0) {
      const float z = gate(a[0]);
      const float r = gate(a[1]);
      a[0] = gate.keep(a[0], z);
      a[1] = gate.keep(a[1], r);
      return r * t.scaled(b.h, at.n, u);
    }
    const float n = candidate(a[2]);
    a[2] = candidate.keep(a[2], n);
    return finish(at, u, gate.of(a[0]), n, b.h);
  }
};

void device_forward(const recurrent::Sequence& q, const Cell& cell, const recurrent::Results& out,
                    float* before) {
  const recurrent::DeviceSteps steps(q.op, *q.steps);
  const Functions f = {{cell.recurrent_activation},
                       {cell.activation},
                       out.second,
                       before,
                       recurrent::ceil_units(q.units)};
  if (cell.reset_after) {
    forward_sequence(q, out, ResetAfter{{f}, {}}, steps);
  } else {
    forward_sequence(q, out, ResetBefore{{f}, {}}, steps);
  }
}

}  // namespace

namespace device {

extern const Kernels kernels = {device_forward, device_backward};

}  // namespace device

}  // namespace lamella::gru
