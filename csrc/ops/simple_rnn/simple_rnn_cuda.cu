// The simple recurrent cell, for recurrent/forward.cuh and backward.cuh.
#include "cuda/kernel.cuh"
#include "ops/simple_rnn/simple_rnn.h"
#include "recurrent/backward.cuh"
#include "recurrent/forward.cuh"

namespace lamella::simple_rnn {
namespace {

using activation::Activation;
using recurrent::BackwardTask;
using recurrent::ForwardTask;
using recurrent::Place;

struct Simple {
  static constexpr int gates = 1;
  static constexpr int phases = 1;
  static constexpr bool separate = false;
  __host__ __device__ static constexpr int first_gate(int) { return 0; }
  __host__ __device__ static constexpr int end_gate(int) { return 1; }
  struct Before {};

  recurrent::Candidate candidate;
};

struct SimpleForward : Simple {
  __device__ Before before(const ForwardTask&, int, const Place&, std::int64_t) const { return {}; }
  __device__ float point(const ForwardTask&, int, const Place&, std::int64_t, float (&z)[1],
                         const float (&)[1], const Before&) const {
    const float h = candidate(z[0]);
    z[0] = candidate.keep(z[0], h);
    return h;
  }
  __device__ void carry(const ForwardTask&, std::int64_t, std::int64_t) const {}
};

struct SimpleBackward : Simple {
  __device__ Before before(const BackwardTask&, int, const Place&, std::int64_t) const {
    return {};
  }
  __device__ unsigned point(const BackwardTask&, int, const Place&, std::int64_t, float dh, float,
                            const float (&kept_gates)[1], const Before&, float&, float (&dz)[1],
                            float (&)[1]) const {
    dz[0] = candidate.gradient(dh, kept_gates[0]);
    return 1u;
  }
  __device__ void carry_back(const BackwardTask&, std::int64_t, std::int64_t) const {}
};

void device_forward(const recurrent::Sequence& q, Activation activation,
                    const recurrent::Results& out) {
  const recurrent::DeviceSteps steps(q.op, *q.steps);
  forward_sequence(q, out, SimpleForward{{{activation}}}, steps);
}

void device_backward(const recurrent::Sequence& q, Activation activation,
                     const recurrent::Results& saved, const recurrent::ResultGradients& dy,
                     const recurrent::Gradients& out) {
  const recurrent::DeviceSteps steps(q.op, *q.steps);
  backward_sequence(q, saved, dy, out, SimpleBackward{{{activation}}}, false, steps);
}

}  // namespace

namespace device {

extern const Kernels kernels = {device_forward, device_backward};

}  // namespace device

}  // namespace lamella::simple_rnn
