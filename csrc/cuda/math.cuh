// Elementary functions and the activations on one float, for every device kernel. The same
// polynomials and the same treatment of NaN, infinities and tails as simd/math.h and
// ops/activation/activation_simd.h, so that both backends keep the same tolerances; no fast-math
// intrinsics but for the reciprocal, whose error is stated. Without branches, but for what a switch
// over the kind of activation costs (the same for all threads).
#pragma once

#include "cuda/kernel.cuh"
#include "ops/activation/activation.h"

namespace lamella::device {

using activation::Activation;
using activation::Kind;
using activation::with_kind;

// 1 / d for d in [2^-100, 2^100], 1 ulp: the hardware's approximation and one Newton step, where
// division would take a branch for what lies outside.
__device__ inline float reciprocal(float d) {
#if defined(__CUDA_ARCH__)
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
  return fmaf(r, fmaf(-d, r, 1.0f), r);
#else
  return 1.0f / d;
#endif
}

// Where a is NaN these give NaN, unlike fminf and fmaxf.
__device__ inline float at_most(float limit, float a) {
  return a > limit ? limit : a;
}
__device__ inline float at_least(float limit, float a) {
  return a < limit ? limit : a;
}

// 1 / (1 + e^-x), 4 ulp, also where the result is tiny.
__device__ inline float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x < 0.0f ? e : 1.0f) * reciprocal(1.0f + e);
}

// 3 ulp.
__device__ inline float tanh(float x) {
  const float a = at_most(20.0f, fabsf(x));  // 1 to the last bit beyond
  const float s = x * x;
  float p = -5.717028605e-03f;
  p = fmaf(p, s, 2.065057221e-02f);
  p = fmaf(p, s, -5.374349329e-02f);
  p = fmaf(p, s, 1.333149123e-01f);
  p = fmaf(p, s, -3.333328392e-01f);
  const float small = fmaf(x * s, p, x);
  const float large = 1.0f - 2.0f * reciprocal(expf(a + a) + 1.0f);
  return a < 0.625f ? small : copysignf(large, x);
}

// max(x, 0) + log(1 + e^-|x|), 4 ulp.
__device__ inline float softplus(float x) {
  return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
}

// Phi(x), the standard normal distribution function, and its density: see simd/math.h.
struct Normal {
  float cdf;
  float density;
};
__device__ inline Normal normal(float x) {
  const float a = at_most(20.0f, fabsf(x));
  const float t = reciprocal(fmaf(a, 0.28284271f, 1.0f));
  const float e = expf(a * a * -0.5f);
  float q = -2.863709538e-02f;
  q = fmaf(q, t, 1.928233246e-01f);
  q = fmaf(q, t, -4.866318219e-01f);
  q = fmaf(q, t, 5.312308894e-01f);
  q = fmaf(q, t, -2.709264353e-01f);
  q = fmaf(q, t, 2.648754388e-01f);
  q = fmaf(q, t, 1.321559366e-01f);
  q = fmaf(q, t, 2.143908327e-01f);
  q = fmaf(q, t, 2.250152637e-01f);
  q = fmaf(q, t, 2.257036758e-01f);
  const float tail = 0.5f * e * (t * q);
  return {x < 0.0f ? tail : 1.0f - tail, e * 0.39894228f};
}

constexpr float gelu_tanh_inner = 0.7978845608f;  // sqrt(2 / pi)
constexpr float gelu_tanh_cubic = 0.044715f;

// f(x)
template <Kind kind>
__device__ inline float activate(float x, float parameter) {
  if constexpr (kind == Kind::relu) {
    return x < 0.0f ? 0.0f : x;
  } else if constexpr (kind == Kind::leaky_relu) {
    return x < 0.0f ? parameter * x : x;
  } else if constexpr (kind == Kind::elu) {
    return x > 0.0f ? x : parameter * expm1f(at_most(0.0f, x));
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
    const float inner = gelu_tanh_inner * fmaf(gelu_tanh_cubic * x, x * x, x);
    // x (1 + tanh(u)) / 2 = x sigmoid(2u), which keeps the lower tail's relative accuracy.
    return x * sigmoid(inner + inner);
  } else {
    return x;
  }
}

// f'(x) times dy, from the input.
template <Kind kind>
__device__ inline float gradient_from_input(float dy, float x, float parameter) {
  if constexpr (kind == Kind::relu) {
    return x > 0.0f ? dy : 0.0f;
  } else if constexpr (kind == Kind::leaky_relu) {
    return x < 0.0f ? parameter * dy : dy;
  } else if constexpr (kind == Kind::elu) {
    return x > 0.0f ? dy : dy * parameter * expf(at_most(0.0f, x));
  } else if constexpr (kind == Kind::sigmoid) {
    const float e = expf(-fabsf(x));
    const float r = reciprocal(1.0f + e);
    return dy * (e * r * r);
  } else if constexpr (kind == Kind::tanh) {
    // 1 - tanh(x)^2 = 4 e / (1 + e)^2 with e = e^(-2|x|), without cancellation.
    const float a = fabsf(x);
    const float e = expf(-(a + a));
    const float r = reciprocal(1.0f + e);
    return dy * (4.0f * e * r * r);
  } else if constexpr (kind == Kind::softplus) {
    return dy * sigmoid(x);
  } else if constexpr (kind == Kind::silu) {
    const float s = sigmoid(x);
    return dy * (s * fmaf(x, 1.0f - s, 1.0f));
  } else if constexpr (kind == Kind::gelu) {
    const Normal n = normal(x);
    return dy * fmaf(x, n.density, n.cdf);
  } else if constexpr (kind == Kind::gelu_tanh) {
    // The derivative is 0 or 1 to the last bit outside of [-16, 16], and there x^3 cannot overflow.
    const float z = at_most(16.0f, at_least(-16.0f, x));
    const float z2 = z * z;
    const float inner = gelu_tanh_inner * fmaf(gelu_tanh_cubic * z, z2, z);
    const float slope = 2.0f * gelu_tanh_inner * fmaf(3.0f * gelu_tanh_cubic, z2, 1.0f);
    const float s = sigmoid(inner + inner);
    return dy * (s * fmaf(z * slope, 1.0f - s, 1.0f));
  } else {
    return dy;
  }
}

// f' times dy, from what a fused forward pass keeps: its output, or the pre-activation
// (activation::needs_input).
template <Kind kind>
__device__ inline float gradient_from_saved(float dy, float saved, float parameter) {
  if constexpr (activation::needs_input(kind)) {
    return gradient_from_input<kind>(dy, saved, parameter);
  } else if constexpr (kind == Kind::elu) {
    return saved > 0.0f ? dy : dy * (saved + parameter);
  } else if constexpr (kind == Kind::sigmoid) {
    return dy * (saved * (1.0f - saved));
  } else if constexpr (kind == Kind::tanh) {
    return dy * fmaf(-saved, saved, 1.0f);
  } else if constexpr (kind == Kind::softplus) {
    return dy * (1.0f - expf(-saved));
  } else {
    return gradient_from_input<kind>(dy, saved, parameter);
  }
}

// f(values[i]), in place: the last step of a fused kernel.
template <int count>
__device__ inline void activate(Activation f, float (&values)[count]) {
  with_kind(f.kind, [&](auto tag) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      values[i] = activate<decltype(tag)::kind>(values[i], f.parameter);
    }
  });
}

// dy[i] f'(saved[i]) into dy: the first step of a fused backward kernel.
template <int count>
__device__ inline void gradient_from_saved(Activation f, const float (&saved)[count],
                                           float (&dy)[count]) {
  with_kind(f.kind, [&](auto tag) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      dy[i] = gradient_from_saved<decltype(tag)::kind>(dy[i], saved[i], f.parameter);
    }
  });
}

}  // namespace lamella::device
