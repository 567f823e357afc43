// The activations of gates and candidates in recurrent cells (recurrent/gate_activations.h on the
// device). The usual ones are a branch that all threads take together.
#pragma once

#include "cuda/math.cuh"

namespace lamella::recurrent {

using activation::Activation;
using activation::Kind;

// One activation and what is kept of it: its value, or its argument where the derivative needs it.
template <Kind usual>
struct GateFunction {
  Activation f;

  __device__ float operator()(float z) const {
    if (f.kind == usual) return device::activate<usual>(z, 0.0f);
    float y = z;
    device::with_kind(f.kind,
                      [&](auto tag) { y = device::activate<decltype(tag)::kind>(z, f.parameter); });
    return y;
  }
  // Of the value or the argument of what is kept.
  __device__ float keep(float z, float y) const { return activation::needs_input(f.kind) ? z : y; }
  __device__ float of(float kept) const {
    return activation::needs_input(f.kind) ? (*this)(kept) : kept;
  }
  __device__ float gradient(float dy, float kept) const {
    if (f.kind == usual) return device::gradient_from_saved<usual>(dy, kept, 0.0f);
    float d = dy;
    device::with_kind(f.kind, [&](auto tag) {
      d = device::gradient_from_saved<decltype(tag)::kind>(dy, kept, f.parameter);
    });
    return d;
  }
  // From its argument x and its value y.
  __device__ float gradient_at(float dy, float x, float y) const {
    if (f.kind == usual) return device::gradient_from_saved<usual>(dy, y, 0.0f);
    float d = dy;
    device::with_kind(f.kind, [&](auto tag) {
      d = device::gradient_from_input<decltype(tag)::kind>(dy, x, f.parameter);
    });
    return d;
  }
};

using Gate = GateFunction<Kind::sigmoid>;
using Candidate = GateFunction<Kind::tanh>;

}  // namespace lamella::recurrent
