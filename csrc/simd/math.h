// Elementary functions on vectors. Polynomials are minimax fits made for this file. A bound of the
// error is stated with each in units in the last place (ulp), with the largest error found in
// brackets: over every float32 where the function is not constant or linear, with FMA and without.
// tests/simd/simd_test.cpp and tests/test_math.py hold them to it on every instruction set. Results
// below the smallest normal number are off by less than that number. NaN gives NaN, infinities give
// the limit.
#pragma once

#include "simd/vec.h"

namespace lamella::LAMELLA_ISA {

// 2^n for integral n in [-126, 127].
LAMELLA_INLINE Float power_of_two(Float n) {
  return from_bits(shift_left<23>(to_int(n) + set_int(127)));
}

template <int count>
LAMELLA_INLINE Float polynomial(Float x, const float (&coefficients)[count]) {
  Float y = set(coefficients[count - 1]);
#pragma GCC unroll 16
  for (int i = count - 2; i >= 0; --i) y = fma(y, x, set(coefficients[i]));
  return y;
}

// x 2^n for integral n in [-126, 127], where nothing overflows or becomes denormal.
LAMELLA_INLINE Float scale_by_normal_power_of_two(Float x, Float n) {
#if defined(LAMELLA_ISA_avx512)
  return {_mm512_scalef_ps(x.v, n.v)};
#else
  return x * power_of_two(n);
#endif
}

// x 2^n for integral n in [-151, 129], x near 1: right down to the denormals and up to infinity.
LAMELLA_INLINE Float scale_by_power_of_two(Float x, Float n) {
#if defined(LAMELLA_ISA_avx512)
  return {_mm512_scalef_ps(x.v, n.v)};
#else
  const Float half = round(n * set(0.5f));
  return x * power_of_two(half) * power_of_two(n - half);
#endif
}

// e^x, 2 ulp (1.32): x = n ln 2 + r, e^x = 2^n (1 + r + r^2 p(r)).
LAMELLA_INLINE Float exp(Float x) {
  static constexpr float p[] = {5.000000101e-01f, 1.666651295e-01f, 4.166618749e-02f,
                                8.369590688e-03f, 1.395170369e-03f};
  const Float y = min(set(89.0f), max(set(-104.0f), x));
  const Float n = round(y * set(1.44269504f));
  // ln 2 in two parts; the first has few enough bits that n * part is exact without FMA too.
  const Float r = fnma(n, set(-2.12194440e-4f), fnma(n, set(0.693359375f), y));
  const Float e = fma(r * r, polynomial(r, p), r + set(1.0f));
  return scale_by_power_of_two(e, n);
}

// Natural logarithm, 1 ulp (0.85): x = 2^n m with m in [sqrt(1/2), sqrt(2)). 0 gives -inf, negative
// NaN.
LAMELLA_INLINE Float log(Float x) {
  static constexpr float p[] = {3.333331260e-01f,  -2.500000979e-01f, 2.000211967e-01f,
                                -1.666798570e-01f, 1.421951887e-01f,  -1.240575267e-01f,
                                1.188860767e-01f,  -1.167483201e-01f, 6.744563196e-02f};
  const Mask denormal = less(x, set(1.17549435e-38f));
  const Float scaled = select(denormal, x * set(8388608.0f), x);
  // Taking sqrt(1/2)'s bits off first puts the mantissa's cut at sqrt(2) instead of at 2.
  const Int shifted = bits(scaled) - set_int(0x3f3504f3);
  const Int exponent = shift_right<23>(shifted + set_int(128 << 23)) - set_int(128);
  const Float m = from_bits((shifted & set_int(0x007fffff)) + set_int(0x3f3504f3));
  const Float n = to_float(exponent) + select(denormal, set(-23.0f), zero());
  const Float f = m - set(1.0f);
  const Float f2 = f * f;
  Float y = fma(f * f2, polynomial(f, p), n * set(-2.12194440e-4f));
  y = fnma(f2, set(0.5f), y);
  y = (f + y) + n * set(0.693359375f);
  y = select(equal(x, zero()), set(-__builtin_inff()), y);
  y = select(less(x, zero()), set(__builtin_nanf("")), y);
  y = select(equal(x, set(__builtin_inff())), x, y);
  return select(is_nan(x), x, y);
}

// log(1 + u) for u >= 0, 3 ulp (2.47): the rounding error of 1 + u is divided out again.
LAMELLA_INLINE Float log1p_positive(Float u) {
  const Float w = u + set(1.0f);
  const Float d = w - set(1.0f);
  const Float correction = select(equal(d, u), set(1.0f), u / d);
  return select(equal(d, zero()), u, log(w) * correction);
}

// tanh, 2 ulp (1.35).
LAMELLA_INLINE Float tanh(Float x) {
  static constexpr float p[] = {-3.333328392e-01f, 1.333149123e-01f, -5.374349329e-02f,
                                2.065057221e-02f, -5.717028605e-03f};
  const Float a = abs(x);
  const Float s = x * x;
  const Float small = fma(x * s, polynomial(s, p), x);
  const Float large = set(1.0f) - set(2.0f) / (exp(a + a) + set(1.0f));
  const Float signed_large = select(less(x, zero()), zero() - large, large);
  return select(less(a, set(0.625f)), small, signed_large);
}

// 1 / (1 + e^-x), 3 ulp (2.64), also where the result is tiny.
LAMELLA_INLINE Float sigmoid(Float x) {
  const Float e = exp(zero() - abs(x));
  const Float numerator = select(less(x, zero()), e, set(1.0f));
  return numerator / (set(1.0f) + e);
}

// max(x, 0) + log(1 + e^-|x|), 4 ulp (3.24).
LAMELLA_INLINE Float softplus(Float x) {
  return max(zero(), x) + log1p_positive(exp(zero() - abs(x)));
}

// Phi(x), the standard normal distribution function, and its density, both to 8 + x^2 / 2 ulp (the
// distribution function 7.4 where it is 1/64 or more, 2.5e-7 absolute). The lower tail is
// exp(-x^2/2) times a polynomial in t = 1 / (1 + 0.4 |x| / sqrt(2)) (the scaled erfc), so it keeps
// its relative accuracy but for the rounding of x^2 / 2, which enters as x^2 / 2 ulp.
struct Normal {
  Float cdf;
  Float density;
};
LAMELLA_INLINE Normal normal(Float x) {
  static constexpr float q[] = {
      2.257036758e-01f,  2.250152637e-01f, 2.143908327e-01f,  1.321559366e-01f, 2.648754388e-01f,
      -2.709264353e-01f, 5.312308894e-01f, -4.866318219e-01f, 1.928233246e-01f, -2.863709538e-02f};
  const Float a = abs(x);
  const Float t = set(1.0f) / fma(a, set(0.28284271f), set(1.0f));
  const Float e = exp(x * x * set(-0.5f));
  const Float tail = set(0.5f) * e * (t * polynomial(t, q));
  const Float cdf = select(less(x, zero()), tail, set(1.0f) - tail);
  return {select(is_nan(x), x, cdf), e * set(0.39894228f)};
}

}  // namespace lamella::LAMELLA_ISA
