// The gated recurrent unit (Cho et al. 2014) over whole sequences, with Keras' gates z, r, h:
//
//   a = x_t W + b,   q = (h s_h) R + b_q
//   z = r(a_z + q_z),  r = r(a_r + q_r)
//   n = a(a_h + r q_h)                      reset_after (as cuDNN has it)
//   n = a(a_h + (r h s_h) R_h)              without; b_q is none
//   h' = z h + (1 - z) n
//
// with x_t times s_x before its product where dropout masks are given. Masked steps are not
// computed at all: see core/steps.h.
//
//   x (N,T,D), W (D,3U), R (U,3U), b (2,3U)? with reset_after (the second row is b_q), (3U)?
//   without, h0 (N,U)?, s_x (N,D)?, s_h (N,U)? outputs (N,T,U), h (N,U)
//
// Forward keeps for backward what recurrent/sequence.h says (gates as their values, or as the
// activation's argument where its derivative needs it), in packed rows of padded units
//   second (rows, U')    q_h with reset_after, else r h s_h
//   before (rows, U')    h before the step, with s_h; without, that is what entered the product
#pragma once

#include "core/isa.h"
#include "ops/activation/activation.h"
#include "recurrent/sequence.h"

namespace lamella::gru {

struct Cell {
  activation::Activation activation, recurrent_activation;
  bool reset_after;
};

struct Kernels {
  void (*forward)(const recurrent::Sequence&, const Cell&, const recurrent::Results&,
                  float* before);
  void (*backward)(const recurrent::Sequence&, const Cell&, const recurrent::Results& saved,
                   const float* before, const recurrent::ResultGradients&,
                   const recurrent::Gradients&);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::gru
