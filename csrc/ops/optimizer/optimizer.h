// The optimizers' steps over flat arrays, in place: one pass over memory each, the parameter w, its
// gradient g and the slots read and written once. In front of every step comes decoupled weight
// decay, w -= decay w, with decay = learning_rate weight_decay.
//
//   sgd       v = momentum v - lr g             w += v
//             with Nesterov's momentum          w += momentum v - lr g
//             without velocity                  w -= lr g
//   rmsprop   s = rho s + (1 - rho) g^2         step = lr g / sqrt(s + epsilon)
//             centered: a = rho a + (1 - rho) g, and max(s - a^2, 0) for s under the root
//             with momentum: b = momentum b + step, and w -= b;  else w -= step
//   adam      m = beta_1 m + (1 - beta_1) g      v = beta_2 v + (1 - beta_2) g^2
//             w -= alpha m / (sqrt(v) + epsilon), alpha = lr sqrt(1 - beta_2^t) / (1 - beta_1^t)
//             amsgrad: vhat = max(vhat, v), which replaces v under the root
//
// (Keras 3's forms.) Slots that are null are not used. The arrays do not overlap.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace lamella::optimizer {

struct Sgd {
  float learning_rate;
  float momentum;
  bool nesterov;
  float decay;
};

// The shares of a running mean, beta and 1 - beta: each rounded from double by itself.
struct Average {
  float old_share;
  float new_share;
};

struct RmsProp {
  float learning_rate;
  Average rho;
  float momentum;
  float epsilon;
  float decay;
};

struct Adam {
  float alpha;
  Average beta_1;
  Average beta_2;
  float epsilon;
  float decay;
};

// The blocks whose squares are summed one by one, then the blocks' sums in order.
constexpr std::int64_t norm_block = 16384;

struct Kernels {
  void (*sgd)(const Sgd& options, std::int64_t size, float* param, const float* grad,
              float* velocity);
  void (*rmsprop)(const RmsProp& options, std::int64_t size, float* param, const float* grad,
                  float* square, float* mean, float* momentum);
  void (*adam)(const Adam& options, std::int64_t size, float* param, const float* grad, float* m,
               float* v, float* vhat);
  // sums[k] = the sum of x^2 over block k; the same on every instruction set.
  void (*squared_norm)(std::int64_t size, const float* x, double* sums);
  void (*scale)(float factor, std::int64_t size, float* x);
  // NaN stays NaN.
  void (*clip)(float low, float high, std::int64_t size, float* x);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::optimizer
