// What the recurrent ops have in common: a state h (N,P) that goes from step to step through a
// product with the recurrent kernel, beside a product of x with the kernel. P is U, save in an LSTM
// with a projection. Plain data, for the sources of every instruction set.
#pragma once

#include <cstdint>

#include "core/steps.h"

namespace lamella::recurrent {

struct Sequence {
  const char* op;
  const Steps* steps;
  std::int64_t inputs;            // D
  std::int64_t units;             // U
  std::int64_t state_size;        // P
  const float* x;                 // (N,T,D)
  const float* kernel;            // (D, gates * U)
  const float* recurrent_kernel;  // (P, gates * U)
  // These may be null.
  const float* bias;            // (gates * U), of the product of x
  const float* recurrent_bias;  // likewise of h, where the cell keeps the two products apart
  const float* h0;              // (N,P)
  const float* x_scale;         // (N,D), h_scale (N,P): factors on the way into the products
  const float* h_scale;
};

// gates and states are null where nothing is kept for a backward pass. They have packed rows
// (core/steps.h) of padded units (recurrent/gate_panels.h).
struct Results {
  float* outputs;  // (N,T,P)
  float* h;        // (N,P)
  float* gates;    // (rows, gates, U') as the cell leaves them
  float* states;   // (rows, P'): h as it entered the product
  float* second;   // (rows, U'): what entered the second product of a cell that has one
};

// Each gradient of a result may be null: zeros.
struct ResultGradients {
  const float* outputs;
  const float* h;
};

// Each may be null: not wanted.
struct Gradients {
  float* x;
  float* kernel;
  float* recurrent_kernel;
  float* bias;
  float* recurrent_bias;
  float* h0;
};

}  // namespace lamella::recurrent
