// The activations of gates and candidates in recurrent cells, a vector at a time.
#pragma once

#include "ops/activation/activation_simd.h"

namespace lamella::LAMELLA_ISA {

namespace detail {

inline Float activate_any(Activation f, Float x) {
  Float y = x;
  with_kind(f.kind, [&](auto tag) { y = activate<decltype(tag)::kind>(x, set(f.parameter)); });
  return y;
}
inline Float gradient_any(Activation f, Float dy, Float x) {
  Float d = dy;
  with_kind(f.kind, [&](auto tag) {
    d = gradient_from_input<decltype(tag)::kind>(dy, x, set(f.parameter));
  });
  return d;
}
inline Float gradient_any_saved(Activation f, Float dy, Float saved) {
  Float d = dy;
  with_kind(f.kind, [&](auto tag) {
    d = gradient_from_saved<decltype(tag)::kind>(dy, saved, set(f.parameter));
  });
  return d;
}

}  // namespace detail

// tanh and sigmoid, known when compiled.
struct StandardGates {
  LAMELLA_INLINE Float gate(Float z) const { return sigmoid(z); }
  LAMELLA_INLINE Float candidate(Float z) const { return tanh(z); }
  LAMELLA_INLINE Float squash(Float c) const { return tanh(c); }
  // From what is kept to the value.
  LAMELLA_INLINE Float gate_of(Float kept) const { return kept; }
  LAMELLA_INLINE Float candidate_of(Float kept) const { return kept; }
  LAMELLA_INLINE Float keep_gate(Float, Float y) const { return y; }
  LAMELLA_INLINE Float keep_candidate(Float, Float y) const { return y; }
  LAMELLA_INLINE Float gate_gradient(Float dy, Float kept) const {
    return gradient_from_saved<Kind::sigmoid>(dy, kept, zero());
  }
  LAMELLA_INLINE Float candidate_gradient(Float dy, Float kept) const {
    return gradient_from_saved<Kind::tanh>(dy, kept, zero());
  }
  // squashed = squash(c).
  LAMELLA_INLINE Float squash_gradient(Float dy, Float, Float squashed) const {
    return gradient_from_saved<Kind::tanh>(dy, squashed, zero());
  }
};

// Any others.
struct AnyGates {
  Float gate(Float z) const { return detail::activate_any(r, z); }
  Float candidate(Float z) const { return detail::activate_any(a, z); }
  Float squash(Float c) const { return detail::activate_any(a, c); }
  Float gate_of(Float kept) const { return activation::needs_input(r.kind) ? gate(kept) : kept; }
  Float candidate_of(Float kept) const {
    return activation::needs_input(a.kind) ? candidate(kept) : kept;
  }
  Float keep_gate(Float z, Float y) const { return activation::needs_input(r.kind) ? z : y; }
  Float keep_candidate(Float z, Float y) const { return activation::needs_input(a.kind) ? z : y; }
  Float gate_gradient(Float dy, Float kept) const {
    return detail::gradient_any_saved(r, dy, kept);
  }
  Float candidate_gradient(Float dy, Float kept) const {
    return detail::gradient_any_saved(a, dy, kept);
  }
  Float squash_gradient(Float dy, Float c, Float) const { return detail::gradient_any(a, dy, c); }

  Activation a, r;
};

// body(f) with the activations of a cell: the usual ones known when compiled.
template <class Body>
LAMELLA_INLINE void with_gates(const Activation& activation, const Activation& recurrent_activation,
                               const Body& body) {
  if (activation.kind == Kind::tanh && recurrent_activation.kind == Kind::sigmoid) {
    body(StandardGates{});
  } else {
    body(AnyGates{activation, recurrent_activation});
  }
}

}  // namespace lamella::LAMELLA_ISA
