// The parts of a softmax over one contiguous row, on the calling thread: shared by softmax and
// crossentropy. Rows come from memory once and stay in L1 between the parts.
#pragma once

#include "simd/math.h"
#include "simd/row_sums.h"

namespace lamella::LAMELLA_ISA {

constexpr float minus_infinity = -__builtin_inff();

// e^x for x <= 0, 2 ulp where the result is a normal number, else 0: `exp` without what it does for
// overflow and denormal results.
LAMELLA_INLINE Float exp_nonpositive(Float x) {
  static constexpr float p[] = {5.000000101e-01f, 1.666651295e-01f, 4.166618749e-02f,
                                8.369590688e-03f, 1.395170369e-03f};
  constexpr float smallest = -87.3f;
  const Float y = max(set(smallest), x);
  const Float n = round(y * set(1.44269504f));
  const Float r = fnma(n, set(-2.12194440e-4f), fnma(n, set(0.693359375f), y));
  const Float e = scale_by_normal_power_of_two(fma(r * r, polynomial(r, p), r + set(1.0f)), n);
  return select(less(x, set(smallest)), zero(), e);
}

// 2^x for x <= 0, 3 ulp (2.04) where the result is a normal number, else 0.
LAMELLA_INLINE Float exp2_nonpositive(Float x) {
  static constexpr float p[] = {6.931470037e-01f, 2.402224243e-01f, 5.550733581e-02f,
                                9.671512991e-03f, 1.326472382e-03f};
  const Float n = round(x);
  const Float r = x - n;
  const Float e = scale_by_normal_power_of_two(fma(polynomial(r, p), r, set(1.0f)), n);
  // Also where n is too small for the line above.
  return select(less(x, set(-126.0f)), zero(), e);
}

// NaN elements may be lost; the sum of the exponentials then is NaN whatever the maximum.
LAMELLA_INLINE float row_maximum(const float* x, std::int64_t n) {
  constexpr std::int64_t width = Float::width;
  if (n < width) return maximum(first_lanes_or(load_n(x, n), n, set(minus_infinity)));
  Float m0 = load(x), m1 = m0, m2 = m0, m3 = m0;
  std::int64_t i = width;
  for (; i + 4 * width <= n; i += 4 * width) {
    m0 = max(m0, load(x + i));
    m1 = max(m1, load(x + i + width));
    m2 = max(m2, load(x + i + 2 * width));
    m3 = max(m3, load(x + i + 3 * width));
  }
  for (; i + width <= n; i += width) m0 = max(m0, load(x + i));
  // Some elements a second time: that does not change a maximum.
  m1 = max(m1, load(x + n - width));
  return maximum(max(max(m0, m1), max(m2, m3)));
}

// e^(x - m) of the vector `at`; 0 in the lanes behind the row's end.
template <class Place>
LAMELLA_INLINE Float exponential(const float* x, Place at, Float m) {
  return exp_nonpositive(inside_or(at.get(x), at, set(minus_infinity)) - m);
}

LAMELLA_INLINE float scalar_log(float x) {
  float lanes[Float::width];
  store(lanes, log(set(x)));
  return lanes[0];
}

}  // namespace lamella::LAMELLA_ISA
