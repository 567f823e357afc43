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
  const Float e = fma(r * r, polynomial(r, p), r + set(1.0f)) * power_of_two(n);
  return select(less(x, set(smallest)), zero(), e);
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
