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
// Forward keeps for backward, in packed rows (core/steps.h) of padded units
// (recurrent/gate_panels.h)
//   gates (rows, 4 U')   the gates, or z where the activation's derivative needs it
//   cells (rows, U')     c' before zoneout
//   states (rows, U')    h s_h, as it entered the product
// and with zoneout of c
//   carried (rows, U')   c' after zoneout
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "core/steps.h"
#include "ops/activation/activation.h"

namespace lamella::lstm {

// Where `kept` is given (N,T,U), the state keeps its value of before where it is not 0; else the
// result is rate * before + (1 - rate) * after.
struct Zoneout {
  const std::uint8_t* kept = nullptr;
  float rate = 0.0f;

  bool on() const { return kept != nullptr || rate != 0.0f; }
};

struct Problem {
  const Steps* steps;
  std::int64_t inputs;  // D
  std::int64_t units;   // U
  activation::Activation activation, recurrent_activation;
  Zoneout zoneout_h, zoneout_c;
  const float* x;
  const float* kernel;
  const float* recurrent_kernel;
  const float* bias;  // these may be null
  const float* h0;
  const float* c0;
  const float* x_scale;
  const float* h_scale;
};

// All null where nothing is kept; `carried` also without zoneout of c.
struct Saved {
  float* gates;
  float* cells;
  float* states;
  float* carried;
};

struct Results {
  float* outputs;
  float* h;
  float* c;
};

// Each may be null: a gradient that is zero.
struct ResultGradients {
  const float* outputs;
  const float* h;
  const float* c;
};

// Each may be null: a gradient that is not wanted.
struct Gradients {
  float* x;
  float* kernel;
  float* recurrent_kernel;
  float* bias;
  float* h0;
  float* c0;
};

struct Kernels {
  void (*forward)(const Problem&, const Results&, const Saved&);
  void (*backward)(const Problem&, const Saved&, const ResultGradients&, const Gradients&);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::lstm
