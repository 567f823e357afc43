// The activations as vector functions: included by every op that fuses one.
#pragma once

#include "ops/activation/activation.h"
#include "simd/math.h"

namespace lamella::LAMELLA_ISA {

using activation::Activation;
using activation::Kind;
using activation::with_kind;

constexpr float gelu_tanh_inner = 0.7978845608f;  // sqrt(2 / pi)
constexpr float gelu_tanh_cubic = 0.044715f;

// e^x - 1 without cancellation for small |x|: tanh(x/2) (e^x + 1).
LAMELLA_INLINE Float expm1(Float x) {
  return tanh(x * set(0.5f)) * (exp(x) + set(1.0f));
}

template <Kind kind>
LAMELLA_INLINE Float activate(Float x, Float parameter) {
  if constexpr (kind == Kind::relu) {
    return max(zero(), x);
  } else if constexpr (kind == Kind::leaky_relu) {
    return select(less(x, zero()), parameter * x, x);
  } else if constexpr (kind == Kind::elu) {
    return select(less(zero(), x), x, parameter * expm1(min(zero(), x)));
  } else if constexpr (kind == Kind::sigmoid) {
    return sigmoid(x);
  } else if constexpr (kind == Kind::tanh) {
    return tanh(x);
  } else if constexpr (kind == Kind::softplus) {
    return softplus(x);
  } else if constexpr (kind == Kind::silu) {
    return x * sigmoid(x);
  } else if constexpr (kind == Kind::gelu) {
    return x * normal(x).cdf;
  } else if constexpr (kind == Kind::gelu_tanh) {
    const Float inner = set(gelu_tanh_inner) * fma(set(gelu_tanh_cubic) * x, x * x, x);
    // x (1 + tanh(u)) / 2 = x sigmoid(2u), which keeps the lower tail's relative accuracy.
    return x * sigmoid(inner + inner);
  } else {
    return x;
  }
}

// f'(x) times dy, from the input.
template <Kind kind>
LAMELLA_INLINE Float gradient_from_input(Float dy, Float x, Float parameter) {
  if constexpr (kind == Kind::relu) {
    return select(less(zero(), x), dy, zero());
  } else if constexpr (kind == Kind::leaky_relu) {
    return select(less(x, zero()), parameter * dy, dy);
  } else if constexpr (kind == Kind::elu) {
    return select(less(zero(), x), dy, dy * parameter * exp(min(zero(), x)));
  } else if constexpr (kind == Kind::sigmoid) {
    const Float e = exp(zero() - abs(x));
    const Float d = set(1.0f) + e;
    return dy * (e / (d * d));
  } else if constexpr (kind == Kind::tanh) {
    // 1 - tanh(x)^2 = 4 e / (1 + e)^2 with e = e^(-2|x|), without cancellation.
    const Float a = abs(x);
    const Float e = exp(zero() - (a + a));
    const Float d = set(1.0f) + e;
    return dy * (set(4.0f) * e / (d * d));
  } else if constexpr (kind == Kind::softplus) {
    return dy * sigmoid(x);
  } else if constexpr (kind == Kind::silu) {
    const Float s = sigmoid(x);
    return dy * (s * fma(x, set(1.0f) - s, set(1.0f)));
  } else if constexpr (kind == Kind::gelu) {
    const Normal n = normal(x);
    return dy * fma(x, n.density, n.cdf);
  } else if constexpr (kind == Kind::gelu_tanh) {
    // The derivative is 0 or 1 to the last bit outside of [-16, 16], and there x^3 cannot overflow.
    const Float z = min(set(16.0f), max(set(-16.0f), x));
    const Float z2 = z * z;
    const Float inner = set(gelu_tanh_inner) * fma(set(gelu_tanh_cubic) * z, z2, z);
    const Float slope =
        set(2.0f * gelu_tanh_inner) * fma(set(3.0f * gelu_tanh_cubic), z2, set(1.0f));
    const Float s = sigmoid(inner + inner);
    return dy * (s * fma(z * slope, set(1.0f) - s, set(1.0f)));
  } else {
    return dy;
  }
}

// f' times dy, from what a fused forward pass keeps: its output, or the pre-activation.
template <Kind kind>
LAMELLA_INLINE Float gradient_from_saved(Float dy, Float saved, Float parameter) {
  if constexpr (activation::needs_input(kind)) {
    return gradient_from_input<kind>(dy, saved, parameter);
  } else if constexpr (kind == Kind::elu) {
    return select(less(zero(), saved), dy, dy * (saved + parameter));
  } else if constexpr (kind == Kind::sigmoid) {
    return dy * (saved * (set(1.0f) - saved));
  } else if constexpr (kind == Kind::tanh) {
    return dy * fnma(saved, saved, set(1.0f));
  } else if constexpr (kind == Kind::softplus) {
    return dy * (set(1.0f) - exp(zero() - saved));
  } else {
    return gradient_from_input<kind>(dy, saved, parameter);
  }
}

// In place over n floats, on the calling thread: the epilogue of a tile that is still in cache.
LAMELLA_INLINE void activate_row(Activation f, float* y, std::int64_t n) {
  if (f.kind == Kind::linear) return;
  with_kind(f.kind, [&](auto tag) {
    const Float parameter = set(f.parameter);
    std::int64_t i = 0;
    for (; i + Float::width <= n; i += Float::width) {
      store(y + i, activate<decltype(tag)::kind>(load(y + i), parameter));
    }
    if (i < n)
      store_n(y + i, activate<decltype(tag)::kind>(load_n(y + i, n - i), parameter), n - i);
  });
}

}  // namespace lamella::LAMELLA_ISA
