// Pointwise activations y = f(x), alone and as the last step of dense and convolution.
//
//   linear      x
//   relu        max(x, 0); NaN stays NaN; derivative at 0 is 0
//   leaky_relu  x < 0 ? parameter * x : x; derivative at 0 is 1 (parameter: negative_slope)
//   elu         x > 0 ? x : parameter * (e^x - 1)                 (parameter: alpha)
//   sigmoid     1 / (1 + e^-x)
//   tanh
//   softplus    log(1 + e^x)
//   silu        x sigmoid(x)
//   gelu        x Phi(x), Phi the normal distribution function (Hendrycks & Gimpel 2016)
//   gelu_tanh   x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
//
// Backward: dx = dy f'(x). For all but silu, gelu and gelu_tanh f' follows from y alone, so a fused
// forward pass keeps only its output; those three need the input ("pre-activation").
// For elu from y, alpha must be >= 0 to tell the branches apart; the standalone op uses x.
#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "core/isa.h"

namespace lamella::activation {

enum class Kind : int {
  linear,
  relu,
  leaky_relu,
  elu,
  sigmoid,
  tanh,
  softplus,
  silu,
  gelu,
  gelu_tanh,
};

struct Activation {
  Kind kind = Kind::linear;
  float parameter = 0.0f;
};

// Whether backward needs the pre-activation and not the output.
constexpr bool needs_input(Kind kind) {
  return kind == Kind::silu || kind == Kind::gelu || kind == Kind::gelu_tanh;
}

template <Kind k>
struct KindTag {
  static constexpr Kind kind = k;
};

// Calls body(KindTag<kind>{}): the kind as a constant, so that the choice is made once and not once
// an element. Inlined by force: kernels compiled for different instruction sets share no copy.
template <class Body>
[[gnu::always_inline]] LAMELLA_HOST_DEVICE inline void with_kind(Kind kind, const Body& body) {
  switch (kind) {
    case Kind::linear:
      return body(KindTag<Kind::linear>{});
    case Kind::relu:
      return body(KindTag<Kind::relu>{});
    case Kind::leaky_relu:
      return body(KindTag<Kind::leaky_relu>{});
    case Kind::elu:
      return body(KindTag<Kind::elu>{});
    case Kind::sigmoid:
      return body(KindTag<Kind::sigmoid>{});
    case Kind::tanh:
      return body(KindTag<Kind::tanh>{});
    case Kind::softplus:
      return body(KindTag<Kind::softplus>{});
    case Kind::silu:
      return body(KindTag<Kind::silu>{});
    case Kind::gelu:
      return body(KindTag<Kind::gelu>{});
    case Kind::gelu_tanh:
      return body(KindTag<Kind::gelu_tanh>{});
  }
}

struct Kernels {
  // y[i] = f(x[i]); x and y may be the same.
  void (*forward)(Activation f, std::int64_t size, const float* x, float* y);
  // dx[i] = dy[i] f'(x[i]), from the op's input x.
  void (*backward)(Activation f, std::int64_t size, const float* dy, const float* x, float* dx);
  // The same after a fused op: `saved` is its output, or its pre-activation where needs_input.
  // dx and dy may be the same.
  void (*backward_fused)(Activation f, std::int64_t size, const float* dy, const float* saved,
                         float* dx);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::activation
