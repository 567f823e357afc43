// Any other CPU: 4 lanes in plain C++, left to the compiler. See simd/vec.h for the contract.
#pragma once

#include <cmath>

namespace lamella::LAMELLA_ISA {

struct Float {
  static constexpr int width = 4;
  static constexpr int registers = 16;
  float v[4];
};
struct Int {
  std::int32_t v[4];
};
struct Mask {
  bool v[4];
};

// lanes<Float>([&](int i) { return ...; }) builds a vector lane by lane.
template <class V, class F>
LAMELLA_INLINE V lanes(F&& f) {
  return {f(0), f(1), f(2), f(3)};
}

LAMELLA_INLINE Float load(const float* p) {
  return lanes<Float>([&](int i) { return p[i]; });
}
LAMELLA_INLINE void store(float* p, Float a) {
  for (int i = 0; i < 4; ++i) p[i] = a.v[i];
}
LAMELLA_INLINE void stream(float* p, Float a) {
  store(p, a);
}
LAMELLA_INLINE Float load_n(const float* p, std::int64_t n) {
  return lanes<Float>([&](int i) { return i < n ? p[i] : 0.0f; });
}
LAMELLA_INLINE void store_n(float* p, Float a, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) p[i] = a.v[i];
}
LAMELLA_INLINE Float set(float x) {
  return {x, x, x, x};
}
LAMELLA_INLINE Float zero() {
  return set(0.0f);
}

LAMELLA_INLINE Float operator+(Float a, Float b) {
  return lanes<Float>([&](int i) { return a.v[i] + b.v[i]; });
}
LAMELLA_INLINE Float operator-(Float a, Float b) {
  return lanes<Float>([&](int i) { return a.v[i] - b.v[i]; });
}
LAMELLA_INLINE Float operator*(Float a, Float b) {
  return lanes<Float>([&](int i) { return a.v[i] * b.v[i]; });
}
LAMELLA_INLINE Float operator/(Float a, Float b) {
  return lanes<Float>([&](int i) { return a.v[i] / b.v[i]; });
}
LAMELLA_INLINE Float fma(Float a, Float b, Float c) {
  return a * b + c;
}
LAMELLA_INLINE Float fnma(Float a, Float b, Float c) {
  return c - a * b;
}
LAMELLA_INLINE Float sqrt(Float a) {
  return lanes<Float>([&](int i) { return std::sqrt(a.v[i]); });
}
LAMELLA_INLINE Float abs(Float a) {
  return lanes<Float>([&](int i) { return std::fabs(a.v[i]); });
}
LAMELLA_INLINE Float min(Float a, Float b) {
  return lanes<Float>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
LAMELLA_INLINE Float max(Float a, Float b) {
  return lanes<Float>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
LAMELLA_INLINE Float round(Float a) {
  return lanes<Float>([&](int i) { return std::nearbyintf(a.v[i]); });
}

LAMELLA_INLINE Mask less(Float a, Float b) {
  return lanes<Mask>([&](int i) { return a.v[i] < b.v[i]; });
}
LAMELLA_INLINE Mask less_equal(Float a, Float b) {
  return lanes<Mask>([&](int i) { return a.v[i] <= b.v[i]; });
}
LAMELLA_INLINE Mask equal(Float a, Float b) {
  return lanes<Mask>([&](int i) { return a.v[i] == b.v[i]; });
}
LAMELLA_INLINE Mask is_nan(Float a) {
  return lanes<Mask>([&](int i) { return a.v[i] != a.v[i]; });
}
LAMELLA_INLINE Mask operator&(Mask a, Mask b) {
  return lanes<Mask>([&](int i) { return a.v[i] && b.v[i]; });
}
LAMELLA_INLINE Mask operator|(Mask a, Mask b) {
  return lanes<Mask>([&](int i) { return a.v[i] || b.v[i]; });
}
LAMELLA_INLINE Float select(Mask m, Float a, Float b) {
  return lanes<Float>([&](int i) { return m.v[i] ? a.v[i] : b.v[i]; });
}

LAMELLA_INLINE Int set_int(std::int32_t x) {
  return {x, x, x, x};
}
LAMELLA_INLINE Int load_int(const std::int32_t* p) {
  return {p[0], p[1], p[2], p[3]};
}
LAMELLA_INLINE void store_int(std::int32_t* p, Int a) {
  for (int i = 0; i < 4; ++i) p[i] = a.v[i];
}
// Wraps around like every SIMD unit does.
LAMELLA_INLINE std::int32_t wrapped(std::uint32_t x) {
  return static_cast<std::int32_t>(x);
}
LAMELLA_INLINE std::uint32_t u(std::int32_t x) {
  return static_cast<std::uint32_t>(x);
}
LAMELLA_INLINE Int operator+(Int a, Int b) {
  return lanes<Int>([&](int i) { return wrapped(u(a.v[i]) + u(b.v[i])); });
}
LAMELLA_INLINE Int operator-(Int a, Int b) {
  return lanes<Int>([&](int i) { return wrapped(u(a.v[i]) - u(b.v[i])); });
}
LAMELLA_INLINE Int operator&(Int a, Int b) {
  return lanes<Int>([&](int i) { return a.v[i] & b.v[i]; });
}
LAMELLA_INLINE Int operator|(Int a, Int b) {
  return lanes<Int>([&](int i) { return a.v[i] | b.v[i]; });
}
LAMELLA_INLINE Int operator^(Int a, Int b) {
  return lanes<Int>([&](int i) { return a.v[i] ^ b.v[i]; });
}
template <int n>
LAMELLA_INLINE Int shift_left(Int a) {
  return lanes<Int>([&](int i) { return wrapped(u(a.v[i]) << n); });
}
template <int n>
LAMELLA_INLINE Int shift_right(Int a) {
  return lanes<Int>([&](int i) { return wrapped(u(a.v[i]) >> n); });
}
LAMELLA_INLINE Mask less_unsigned(Int a, Int b) {
  return lanes<Mask>([&](int i) { return u(a.v[i]) < u(b.v[i]); });
}
LAMELLA_INLINE Int multiply_even(Int a, Int b) {
  return lanes<Int>([&](int i) {
    const std::uint64_t product = std::uint64_t{u(a.v[i & ~1])} * u(b.v[i & ~1]);
    return wrapped(static_cast<std::uint32_t>(product >> (i & 1 ? 32 : 0)));
  });
}
LAMELLA_INLINE Int odd_to_even(Int a) {
  return {a.v[1], 0, a.v[3], 0};
}
LAMELLA_INLINE Int zip_even(Int a, Int b) {
  return {a.v[0], b.v[0], a.v[2], b.v[2]};
}
LAMELLA_INLINE Int zip_pairs_low(Int a, Int b) {
  return {a.v[0], a.v[1], b.v[0], b.v[1]};
}
LAMELLA_INLINE Int zip_pairs_high(Int a, Int b) {
  return {a.v[2], a.v[3], b.v[2], b.v[3]};
}
// Out-of-range values, which the callers of to_int mask afterwards, must not be undefined here.
LAMELLA_INLINE Int to_int(Float a) {
  return lanes<Int>([&](int i) {
    return a.v[i] > -2147483000.0f && a.v[i] < 2147483000.0f
               ? static_cast<std::int32_t>(std::nearbyintf(a.v[i]))
               : INT32_MIN;
  });
}
LAMELLA_INLINE Float to_float(Int a) {
  return lanes<Float>([&](int i) { return static_cast<float>(a.v[i]); });
}
LAMELLA_INLINE Int bits(Float a) {
  Int b;
  std::memcpy(&b, &a, sizeof b);
  return b;
}
LAMELLA_INLINE Float from_bits(Int a) {
  Float b;
  std::memcpy(&b, &a, sizeof b);
  return b;
}

LAMELLA_INLINE float sum(Float a) {
  return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
}
LAMELLA_INLINE float maximum(Float a) {
  const float p = a.v[0] > a.v[2] ? a.v[0] : a.v[2];
  const float q = a.v[1] > a.v[3] ? a.v[1] : a.v[3];
  return p > q ? p : q;
}

LAMELLA_INLINE bool any(Mask m) {
  return m.v[0] || m.v[1] || m.v[2] || m.v[3];
}

}  // namespace lamella::LAMELLA_ISA
