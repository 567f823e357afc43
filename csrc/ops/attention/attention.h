// Scaled dot-product attention by online softmax: no array of S * L scores, forward or backward.
//
//   s_ij = softcap tanh(scale q_i . k_j / softcap) + bias_ij - slope_a |i + offset_n - j|
//   p_ij = exp(s_ij - lse_i) over the keys j that query i sees, lse_i = log sum_j exp(s_ij)
//   w_ij = p_ij kept_ij / (1 - dropout)
//   y_i  = sum_j w_ij v_j
//
// without the softcap, bias, slopes and dropout that are absent. Query i of sequence n sees the
// keys of [i + offset_n - left, i + offset_n + right] in [0, length_n) where the mask is true. A
// query that sees no key, or only scores of -inf, has y = 0, lse = -inf and gradients of 0; a
// weight of 0 meets no value, so that what lies behind a mask may be NaN.
//
// Backward, with dw_ij = dy_i . v_j + dweights_ij and D_i = sum_j w_ij dw_ij - dlse_i:
//
//   ds_ij = w_ij dw_ij - p_ij D_i             dbias_ij = ds_ij
//   dr_ij = ds_ij (1 - tanh^2)                where there is a softcap, else ds_ij
//   dq_i  = scale sum_j dr_ij k_j             dk_j = scale sum_i dr_ij q_i
//   dv_j  = sum_i w_ij dy_i
//
// p is computed again from q, k and lse; sum_j w_ij dy_i . v_j = dy_i . y_i. Forward saves y, lse
// in units of log 2, and the weights if they were asked for.
//
// Head a of the query reads head a / (A / K) of key and value. kept_ij is word
// ((n A + a) S + i) L' + j of the Philox stream of the seed below dropout_threshold(rate)
// (core/philox.h), L' = L rounded up to a multiple of 32.
//
// T. Dao, D. Fu, S. Ermon, A. Rudra, C. Ré: "FlashAttention: fast and memory-efficient exact
// attention with IO-awareness", 2022.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "ops/dropout/dropout.h"

namespace lamella::attention {

// Of a side of the window: no bound. Offsets are smaller, so that sums with it fit 63 bits.
constexpr std::int64_t unbounded = std::int64_t{1} << 60;

// Where element (n,a,i,j) of an array that broadcasts to (N,A,S,L) lies, in elements: 0 along the
// axes that it repeats.
struct Strides {
  std::int64_t n, a, i, j;
  constexpr std::int64_t at(std::int64_t sequence, std::int64_t head, std::int64_t query) const {
    return sequence * n + head * a + query * i;
  }
};

struct Problem {
  const char* op;
  std::int64_t batch;      // N
  std::int64_t queries;    // S
  std::int64_t keys;       // L
  std::int64_t heads;      // A
  std::int64_t key_heads;  // K
  std::int64_t size;       // E
  std::int64_t value_size;
  const float* query;  // (N,S,A,E)
  const float* key;    // (N,L,K,E)
  const float* value;  // (N,L,K,Ev)
  // Null where absent.
  const std::uint8_t* mask;
  Strides mask_strides;
  const float* bias;
  Strides bias_strides;
  const float* alibi_slopes;          // (A)
  const std::int64_t* query_offsets;  // (N); null: `offset` for all
  const std::int64_t* key_lengths;    // (N)
  std::int64_t offset;
  std::int64_t left, right;  // of the window, or unbounded; right is 0 if causal
  float scale;
  float softcap;  // 0: none
  bool drops;
  dropout::Mask dropout;

  constexpr std::int64_t group() const { return heads / key_heads; }
  constexpr std::int64_t dropout_row() const { return (keys + 31) / 32 * 32; }
};

struct Results {
  float* y;        // (N,S,A,Ev)
  float* lse;      // (N,A,S), in units of log 2
  float* weights;  // (N,A,S,L), null: not wanted
};

// What forward gave, and the gradients of it; each of these may be null.
struct Saved {
  const float* y;
  const float* lse;
  const float* weights;
  const float* dy;
  const float* dlse;  // of lse in natural units
  const float* dweights;
};

// Each may be null: not wanted. They overlap nothing.
struct Gradients {
  float* query;
  float* key;
  float* value;
  float* bias;  // of the bias's own shape
};

struct Kernels {
  void (*forward)(const Problem&, const Results&);
  void (*backward)(const Problem&, const Saved&, const Gradients&);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::attention
