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
//
// Its variants, layer normalization (Ba et al. 2016) and projection (Sak et al. 2014), each where
// its arrays are given, alone or together:
//
//   z = N(x_t W; gamma_x) + N((h s_h) R; gamma_h) + b
//   h' = (o a(N(c'; gamma_c, beta_c))) V
//   N(v; gamma, beta) = gamma (v - mean) / deviation + beta,   deviation^2 = variance + epsilon
//
// with the mean and the variance (divided by their number) of a row of v; N(v) = v without gamma.
//
//   V (U,P)?, gamma_x gamma_h (4U)?, gamma_c beta_c (U)?; beta_c only with gamma_c
//
// With V, h has P features instead of U, in h0, s_h, zoneout of h, R (P,4U), outputs and h.
// Forward keeps besides
//   x_product (rows, 4U')   x_t W, with gamma_x
//   h_product (rows, 4U')   (h s_h) R, with gamma_h
//   statistics (rows, 3, 2) mean and 1 / deviation of x_t W, (h s_h) R and c', where normalized
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "ops/activation/activation.h"
#include "recurrent/sequence.h"

namespace lamella::lstm {

// Where `kept` is given (N, T, width of the state), the state keeps its value of before where it is
// not 0; else the result is rate * before + (1 - rate) * after.
struct Zoneout {
  const std::uint8_t* kept = nullptr;
  float rate = 0.0f;

  constexpr bool on() const { return kept != nullptr || rate != 0.0f; }
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

// Each array may be null.
struct Variant {
  const float* projection_kernel;
  const float* gamma_x;
  const float* gamma_h;
  const float* gamma_c;
  const float* beta_c;
  float epsilon;
};

// In each row of statistics.
constexpr std::int64_t statistics_floats = 6;

// Null where nothing is kept, or nothing normalized.
struct VariantResults {
  float* x_product;
  float* h_product;
  float* statistics;
};

// Each may be null: not wanted.
struct VariantGradients {
  float* projection_kernel;
  float* gamma_x;
  float* gamma_h;
  float* gamma_c;
  float* beta_c;
};

// The variants have kernels of their own: they take the steps of whole rows, while the others
// go from product to cell block by block.
struct Kernels {
  void (*forward)(const recurrent::Sequence&, const Cell&, const recurrent::Results&,
                  const CellResults&);
  void (*backward)(const recurrent::Sequence&, const Cell&, const recurrent::Results& saved,
                   const CellResults& cell_saved, const recurrent::ResultGradients&,
                   const recurrent::Gradients&, const CellGradients&);
  void (*variant_forward)(const recurrent::Sequence&, const Cell&, const Variant&,
                          const recurrent::Results&, const CellResults&, const VariantResults&);
  void (*variant_backward)(const recurrent::Sequence&, const Cell&, const Variant&,
                           const recurrent::Results& saved, const CellResults& cell_saved,
                           const VariantResults& variant_saved, const recurrent::ResultGradients&,
                           const recurrent::Gradients&, const CellGradients&,
                           const VariantGradients&);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::lstm
