// AVX2 + FMA: 8 lanes. See simd/vec.h for the contract.
#pragma once

#include <immintrin.h>

namespace lamella::LAMELLA_ISA {

struct Float {
  static constexpr int width = 8;
  static constexpr int registers = 16;
  __m256 v;
};
struct Int {
  __m256i v;
};
struct Mask {
  __m256 v;
};

LAMELLA_INLINE __m256i first_lanes(std::int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}

LAMELLA_INLINE Float load(const float* p) {
  return {_mm256_loadu_ps(p)};
}
LAMELLA_INLINE void store(float* p, Float a) {
  _mm256_storeu_ps(p, a.v);
}
LAMELLA_INLINE void stream(float* p, Float a) {
  _mm256_stream_ps(p, a.v);
}
LAMELLA_INLINE Float load_n(const float* p, std::int64_t n) {
  return {_mm256_maskload_ps(p, first_lanes(n))};
}
LAMELLA_INLINE void store_n(float* p, Float a, std::int64_t n) {
  _mm256_maskstore_ps(p, first_lanes(n), a.v);
}
LAMELLA_INLINE Float set(float x) {
  return {_mm256_set1_ps(x)};
}
LAMELLA_INLINE Float zero() {
  return {_mm256_setzero_ps()};
}

LAMELLA_INLINE Float operator+(Float a, Float b) {
  return {_mm256_add_ps(a.v, b.v)};
}
LAMELLA_INLINE Float operator-(Float a, Float b) {
  return {_mm256_sub_ps(a.v, b.v)};
}
LAMELLA_INLINE Float operator*(Float a, Float b) {
  return {_mm256_mul_ps(a.v, b.v)};
}
LAMELLA_INLINE Float operator/(Float a, Float b) {
  return {_mm256_div_ps(a.v, b.v)};
}
LAMELLA_INLINE Float fma(Float a, Float b, Float c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
LAMELLA_INLINE Float fnma(Float a, Float b, Float c) {
  return {_mm256_fnmadd_ps(a.v, b.v, c.v)};
}
LAMELLA_INLINE Float sqrt(Float a) {
  return {_mm256_sqrt_ps(a.v)};
}
LAMELLA_INLINE Float abs(Float a) {
  return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)};
}
LAMELLA_INLINE Float min(Float a, Float b) {
  return {_mm256_min_ps(a.v, b.v)};
}
LAMELLA_INLINE Float max(Float a, Float b) {
  return {_mm256_max_ps(a.v, b.v)};
}
LAMELLA_INLINE Float round(Float a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

LAMELLA_INLINE Mask less(Float a, Float b) {
  return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)};
}
LAMELLA_INLINE Mask less_equal(Float a, Float b) {
  return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)};
}
LAMELLA_INLINE Mask equal(Float a, Float b) {
  return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)};
}
LAMELLA_INLINE Mask is_nan(Float a) {
  return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)};
}
LAMELLA_INLINE Mask operator&(Mask a, Mask b) {
  return {_mm256_and_ps(a.v, b.v)};
}
LAMELLA_INLINE Mask operator|(Mask a, Mask b) {
  return {_mm256_or_ps(a.v, b.v)};
}
LAMELLA_INLINE Float select(Mask m, Float a, Float b) {
  return {_mm256_blendv_ps(b.v, a.v, m.v)};
}

LAMELLA_INLINE Int set_int(std::int32_t x) {
  return {_mm256_set1_epi32(x)};
}
LAMELLA_INLINE Int load_int(const std::int32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
LAMELLA_INLINE void store_int(std::int32_t* p, Int a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v);
}
LAMELLA_INLINE Int operator+(Int a, Int b) {
  return {_mm256_add_epi32(a.v, b.v)};
}
LAMELLA_INLINE Int operator-(Int a, Int b) {
  return {_mm256_sub_epi32(a.v, b.v)};
}
LAMELLA_INLINE Int operator&(Int a, Int b) {
  return {_mm256_and_si256(a.v, b.v)};
}
LAMELLA_INLINE Int operator|(Int a, Int b) {
  return {_mm256_or_si256(a.v, b.v)};
}
LAMELLA_INLINE Int operator^(Int a, Int b) {
  return {_mm256_xor_si256(a.v, b.v)};
}
template <int n>
LAMELLA_INLINE Int shift_left(Int a) {
  return {_mm256_slli_epi32(a.v, n)};
}
template <int n>
LAMELLA_INLINE Int shift_right(Int a) {
  return {_mm256_srli_epi32(a.v, n)};
}
LAMELLA_INLINE Mask less_unsigned(Int a, Int b) {
  const __m256i flip = _mm256_set1_epi32(INT32_MIN);  // the comparison is a signed one
  return {_mm256_castsi256_ps(
      _mm256_cmpgt_epi32(_mm256_xor_si256(b.v, flip), _mm256_xor_si256(a.v, flip)))};
}
LAMELLA_INLINE Int multiply_even(Int a, Int b) {
  return {_mm256_mul_epu32(a.v, b.v)};
}
LAMELLA_INLINE Int odd_to_even(Int a) {
  return {_mm256_srli_epi64(a.v, 32)};
}
LAMELLA_INLINE Int zip_even(Int a, Int b) {
  return {_mm256_blend_epi32(a.v, _mm256_slli_epi64(b.v, 32), 0xAA)};
}
LAMELLA_INLINE Int zip_pairs_low(Int a, Int b) {
  return {_mm256_unpacklo_epi64(a.v, b.v)};
}
LAMELLA_INLINE Int zip_pairs_high(Int a, Int b) {
  return {_mm256_unpackhi_epi64(a.v, b.v)};
}
LAMELLA_INLINE Int to_int(Float a) {
  return {_mm256_cvtps_epi32(a.v)};
}
LAMELLA_INLINE Float to_float(Int a) {
  return {_mm256_cvtepi32_ps(a.v)};
}
LAMELLA_INLINE Int bits(Float a) {
  return {_mm256_castps_si256(a.v)};
}
LAMELLA_INLINE Float from_bits(Int a) {
  return {_mm256_castsi256_ps(a.v)};
}

LAMELLA_INLINE float sum(Float a) {
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
// NaN lanes may be lost: callers that must keep them test is_nan themselves.
LAMELLA_INLINE float maximum(Float a) {
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

LAMELLA_INLINE bool any(Mask m) {
  return _mm256_movemask_ps(m.v) != 0;
}

}  // namespace lamella::LAMELLA_ISA
