// Baseline x86-64 (SSE2, no FMA): 4 lanes. See simd/vec.h for the contract.
#pragma once

#include <emmintrin.h>

namespace lamella::LAMELLA_ISA {

struct Float {
  static constexpr int width = 4;
  static constexpr int registers = 16;
  __m128 v;
};
struct Int {
  __m128i v;
};
struct Mask {
  __m128 v;
};

LAMELLA_INLINE Float load(const float* p) {
  return {_mm_loadu_ps(p)};
}
LAMELLA_INLINE void store(float* p, Float a) {
  _mm_storeu_ps(p, a.v);
}
LAMELLA_INLINE void stream(float* p, Float a) {
  _mm_stream_ps(p, a.v);
}
LAMELLA_INLINE Float load_n(const float* p, std::int64_t n) {
  float lanes[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  for (std::int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return {_mm_loadu_ps(lanes)};
}
LAMELLA_INLINE void store_n(float* p, Float a, std::int64_t n) {
  float lanes[4];
  _mm_storeu_ps(lanes, a.v);
  for (std::int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}
LAMELLA_INLINE Float set(float x) {
  return {_mm_set1_ps(x)};
}
LAMELLA_INLINE Float zero() {
  return {_mm_setzero_ps()};
}

LAMELLA_INLINE Float operator+(Float a, Float b) {
  return {_mm_add_ps(a.v, b.v)};
}
LAMELLA_INLINE Float operator-(Float a, Float b) {
  return {_mm_sub_ps(a.v, b.v)};
}
LAMELLA_INLINE Float operator*(Float a, Float b) {
  return {_mm_mul_ps(a.v, b.v)};
}
LAMELLA_INLINE Float operator/(Float a, Float b) {
  return {_mm_div_ps(a.v, b.v)};
}
LAMELLA_INLINE Float fma(Float a, Float b, Float c) {
  return a * b + c;
}
LAMELLA_INLINE Float fnma(Float a, Float b, Float c) {
  return c - a * b;
}
LAMELLA_INLINE Float sqrt(Float a) {
  return {_mm_sqrt_ps(a.v)};
}
LAMELLA_INLINE Float abs(Float a) {
  return {_mm_andnot_ps(_mm_set1_ps(-0.0f), a.v)};
}
LAMELLA_INLINE Float min(Float a, Float b) {
  return {_mm_min_ps(a.v, b.v)};
}
LAMELLA_INLINE Float max(Float a, Float b) {
  return {_mm_max_ps(a.v, b.v)};
}
// The conversion rounds to nearest even, the default mode that nothing here changes.
LAMELLA_INLINE Float round(Float a) {
  return {_mm_cvtepi32_ps(_mm_cvtps_epi32(a.v))};
}

LAMELLA_INLINE Mask less(Float a, Float b) {
  return {_mm_cmplt_ps(a.v, b.v)};
}
LAMELLA_INLINE Mask less_equal(Float a, Float b) {
  return {_mm_cmple_ps(a.v, b.v)};
}
LAMELLA_INLINE Mask equal(Float a, Float b) {
  return {_mm_cmpeq_ps(a.v, b.v)};
}
LAMELLA_INLINE Mask is_nan(Float a) {
  return {_mm_cmpunord_ps(a.v, a.v)};
}
LAMELLA_INLINE Mask operator&(Mask a, Mask b) {
  return {_mm_and_ps(a.v, b.v)};
}
LAMELLA_INLINE Mask operator|(Mask a, Mask b) {
  return {_mm_or_ps(a.v, b.v)};
}
LAMELLA_INLINE Float select(Mask m, Float a, Float b) {
  return {_mm_or_ps(_mm_and_ps(m.v, a.v), _mm_andnot_ps(m.v, b.v))};
}

LAMELLA_INLINE Int set_int(std::int32_t x) {
  return {_mm_set1_epi32(x)};
}
LAMELLA_INLINE Int load_int(const std::int32_t* p) {
  return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))};
}
LAMELLA_INLINE void store_int(std::int32_t* p, Int a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a.v);
}
LAMELLA_INLINE Int operator+(Int a, Int b) {
  return {_mm_add_epi32(a.v, b.v)};
}
LAMELLA_INLINE Int operator-(Int a, Int b) {
  return {_mm_sub_epi32(a.v, b.v)};
}
LAMELLA_INLINE Int operator&(Int a, Int b) {
  return {_mm_and_si128(a.v, b.v)};
}
LAMELLA_INLINE Int operator|(Int a, Int b) {
  return {_mm_or_si128(a.v, b.v)};
}
LAMELLA_INLINE Int operator^(Int a, Int b) {
  return {_mm_xor_si128(a.v, b.v)};
}
template <int n>
LAMELLA_INLINE Int shift_left(Int a) {
  return {_mm_slli_epi32(a.v, n)};
}
template <int n>
LAMELLA_INLINE Int shift_right(Int a) {
  return {_mm_srli_epi32(a.v, n)};
}
LAMELLA_INLINE Mask less_unsigned(Int a, Int b) {
  const __m128i flip = _mm_set1_epi32(INT32_MIN);  // the comparison is a signed one
  return {_mm_castsi128_ps(_mm_cmplt_epi32(_mm_xor_si128(a.v, flip), _mm_xor_si128(b.v, flip)))};
}
LAMELLA_INLINE Int multiply_even(Int a, Int b) {
  return {_mm_mul_epu32(a.v, b.v)};
}
LAMELLA_INLINE Int odd_to_even(Int a) {
  return {_mm_srli_epi64(a.v, 32)};
}
LAMELLA_INLINE Int zip_even(Int a, Int b) {
  const __m128i even = _mm_set_epi32(0, -1, 0, -1);
  return {_mm_or_si128(_mm_and_si128(a.v, even), _mm_slli_epi64(b.v, 32))};
}
LAMELLA_INLINE Int zip_pairs_low(Int a, Int b) {
  return {_mm_unpacklo_epi64(a.v, b.v)};
}
LAMELLA_INLINE Int zip_pairs_high(Int a, Int b) {
  return {_mm_unpackhi_epi64(a.v, b.v)};
}
LAMELLA_INLINE Int to_int(Float a) {
  return {_mm_cvtps_epi32(a.v)};
}
LAMELLA_INLINE Float to_float(Int a) {
  return {_mm_cvtepi32_ps(a.v)};
}
LAMELLA_INLINE Int bits(Float a) {
  return {_mm_castps_si128(a.v)};
}
LAMELLA_INLINE Float from_bits(Int a) {
  return {_mm_castsi128_ps(a.v)};
}

LAMELLA_INLINE float sum(Float a) {
  const __m128 q = _mm_add_ps(a.v, _mm_movehl_ps(a.v, a.v));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
// NaN lanes may be lost: callers that must keep them test is_nan themselves.
LAMELLA_INLINE float maximum(Float a) {
  const __m128 q = _mm_max_ps(a.v, _mm_movehl_ps(a.v, a.v));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

LAMELLA_INLINE bool any(Mask m) {
  return _mm_movemask_ps(m.v) != 0;
}

}  // namespace lamella::LAMELLA_ISA
