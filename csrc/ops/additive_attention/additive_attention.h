// Additive attention: a score of one hidden layer for each pair of a query and a key.
//
//   h_ije = tanh(q_ie + k_je)
//   s_ij  = sum_e scale_e h_ije
//   p_ij  = exp(s_ij) / sum_j exp(s_ij) over the keys j that query i sees
//   w_ij  = p_ij kept_ij / (1 - dropout)
//   y_i   = sum_j w_ij v_j
//
// scale is 1 where it is absent. Which keys a query sees, what a query that sees none gives, and
// the words of dropout are those of attention with one head (ops/attention/attention.h). There is
// no array of S * L * E elements, and of S * L only the weights, if they are asked for.
//
// Backward, with dw_ij = dy_i . v_j + dweights_ij:
//
//   ds_ij    = w_ij dw_ij - p_ij sum_j w_ij dw_ij
//   dq_ie    = scale_e sum_j ds_ij (1 - h_ije^2)     dk_je = scale_e sum_i ds_ij (1 - h_ije^2)
//   dscale_e = sum_ij ds_ij h_ije                    dv_j  = sum_i w_ij dy_i
//
// h and p are computed again from q and k: forward saves nothing.
//
// D. Bahdanau, K. Cho, Y. Bengio: "Neural machine translation by jointly learning to align and
// translate", 2015.
#pragma once

#include "core/isa.h"
#include "ops/attention/attention.h"

namespace lamella::additive_attention {

struct Problem {
  // query (N,S,E), value (N,L,Ev), key (N,L,E) and what is visible: of one head, with scale 1.
  attention::Problem pairs;
  const float* scale;  // (E), null: absent
};

struct Results {
  float* y;        // (N,S,Ev)
  float* weights;  // (N,S,L), null: not wanted
};

// The gradients of the results; each may be null.
struct ResultGradients {
  const float* y;
  const float* weights;
};

// Each may be null: not wanted. They overlap nothing.
struct Gradients {
  float* query;
  float* value;
  float* key;
  float* scale;
};

struct Kernels {
  void (*forward)(const Problem&, const Results&);
  void (*backward)(const Problem&, const ResultGradients&, const Gradients&);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::additive_attention
