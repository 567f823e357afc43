// LSTM over whole sequences (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al.
// 2000):
//
//   (i, f, g, o)  = (r(z_i), r(z_f), a(z_c), r(z_o)),   z = x_t W + (h s_h) R + b
//   c' = f c + i g
//   h' = o a(c')
//
// with the activations a ("activation") and r ("recurrent_activation"), x_t times s_x before its
// product where dropout masks are given. Zoneout mixes h' and c' with h and c. Gates lie in the
// order i, f, c, o. Masked steps are not computed at all: see core/steps.h.
//
//   x (N,T,D), W (D,4U), R (U,4U), b (4U)?, h0 c0 (N,U)?, s_x (N,D)?, s_h (N,U)?
//   outputs (N,T,U), h c (N,U)
//
// Forward keeps for backward what recurrent/sequence.h says (gates as their values, or as z where
// the activation's derivative needs it), and in packed rows of padded units
//   cells (rows, U')     c' before zoneout
//   carried (rows, U')   c' after zoneout, with zoneout of c
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "ops/activation/activation.h"
#include "recurrent/sequence.h"

namespace lamella::lstm {

// Where `kept` is given (N,T,U), the state keeps its value of before where it is not 0; else the
// result is rate * before + (1 - rate) * after.
struct Zoneout {
  const std::uint8_t* kept = nullptr;
  float rate = 0.0f;

  bool on() const { return kept != nullptr || rate != 0.0f; }
};

struct Cell {
  activation::Activation activation, recurrent_activation;
  Zoneout zoneout_h, zoneout_c;
  const float* c0;  // may be null
};

// `cells` is null where nothing is kept; `carried` also without zoneout of c.
struct CellResults {
  float* c;
  float* cells;
  float* carried;
};

// dc may be null: zeros; dc0 too: not wanted.
struct CellGradients {
  const float* dc;
  float* dc0;
};

struct Kernels {
  void (*forward)(const recurrent::Sequence&, const Cell&, const recurrent::Results&,
                  const CellResults&);
  void (*backward)(const recurrent::Sequence&, const Cell&, const recurrent::Results& saved,
                   const CellResults& cell_saved, const recurrent::ResultGradients&,
                   const recurrent::Gradients&, const CellGradients&);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::lstm
