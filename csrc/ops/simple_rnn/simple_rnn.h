// The simple recurrent network (Elman 1990) over whole sequences:
//
//   h' = a(x_t W + (h s_h) R + b)
//
// with x_t times s_x before its product where dropout masks are given. Masked steps are not
// computed at all: see core/steps.h.
//
//   x (N,T,D), W (D,U), R (U,U), b (U)?, h0 (N,U)?, s_x (N,D)?, s_h (N,U)?
//   outputs (N,T,U), h (N,U)
//
// Forward keeps for backward what recurrent/sequence.h says: h', or its argument z where the
// activation's derivative needs it, as the only gate.
#pragma once

#include "core/isa.h"
#include "ops/activation/activation.h"
#include "recurrent/sequence.h"

namespace lamella::simple_rnn {

struct Kernels {
  void (*forward)(const recurrent::Sequence&, activation::Activation, const recurrent::Results&);
  void (*backward)(const recurrent::Sequence&, activation::Activation,
                   const recurrent::Results& saved, const recurrent::ResultGradients&,
                   const recurrent::Gradients&);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::simple_rnn
