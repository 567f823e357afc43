// AVX-512 (F, BW, DQ, VL): 16 lanes. See simd/vec.h for the contract.
#pragma once

#include <immintrin.h>

namespace lamella::LAMELLA_ISA {

struct Float {
  static constexpr int width = 16;
  static constexpr int registers = 32;
  __m512 v;
};
struct Int {
  __m512i v;
};
struct Mask {
  __mmask16 v;
};

LAMELLA_INLINE __mmask16 first_lanes(std::int64_t n) {
  return static_cast<__mmask16>((1u << n) - 1u);
}

LAMELLA_INLINE Float load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
LAMELLA_INLINE void store(float* p, Float a) {
  _mm512_storeu_ps(p, a.v);
}
LAMELLA_INLINE void stream(float* p, Float a) {
  _mm512_stream_ps(p, a.v);
}
LAMELLA_INLINE Float load_n(const float* p, std::int64_t n) {
  return {_mm512_maskz_loadu_ps(first_lanes(n), p)};
}
LAMELLA_INLINE void store_n(float* p, Float a, std::int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), a.v);
}
LAMELLA_INLINE Float set(float x) {
  return {_mm512_set1_ps(x)};
}
LAMELLA_INLINE Float zero() {
  return {_mm512_setzero_ps()};
}

LAMELLA_INLINE Float operator+(Float a, Float b) {
  return {_mm512_add_ps(a.v, b.v)};
}
LAMELLA_INLINE Float operator-(Float a, Float b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
LAMELLA_INLINE Float operator*(Float a, Float b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
LAMELLA_INLINE Float operator/(Float a, Float b) {
  return {_mm512_div_ps(a.v, b.v)};
}
LAMELLA_INLINE Float fma(Float a, Float b, Float c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
LAMELLA_INLINE Float fnma(Float a, Float b, Float c) {
  return {_mm512_fnmadd_ps(a.v, b.v, c.v)};
}
LAMELLA_INLINE Float sqrt(Float a) {
  return {_mm512_sqrt_ps(a.v)};
}
LAMELLA_INLINE Float abs(Float a) {
  return {_mm512_abs_ps(a.v)};
}
LAMELLA_INLINE Float min(Float a, Float b) {
  return {_mm512_min_ps(a.v, b.v)};
}
LAMELLA_INLINE Float max(Float a, Float b) {
  return {_mm512_max_ps(a.v, b.v)};
}
LAMELLA_INLINE Float round(Float a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

LAMELLA_INLINE Mask less(Float a, Float b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)};
}
LAMELLA_INLINE Mask less_equal(Float a, Float b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)};
}
LAMELLA_INLINE Mask equal(Float a, Float b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)};
}
LAMELLA_INLINE Mask is_nan(Float a) {
  return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)};
}
LAMELLA_INLINE Mask operator&(Mask a, Mask b) {
  return {static_cast<__mmask16>(a.v & b.v)};
}
LAMELLA_INLINE Mask operator|(Mask a, Mask b) {
  return {static_cast<__mmask16>(a.v | b.v)};
}
LAMELLA_INLINE Float select(Mask m, Float a, Float b) {
  return {_mm512_mask_blend_ps(m.v, b.v, a.v)};
}

LAMELLA_INLINE Int set_int(std::int32_t x) {
  return {_mm512_set1_epi32(x)};
}
LAMELLA_INLINE Int load_int(const std::int32_t* p) {
  return {_mm512_loadu_si512(p)};
}
LAMELLA_INLINE void store_int(std::int32_t* p, Int a) {
  _mm512_storeu_si512(p, a.v);
}
LAMELLA_INLINE Int operator+(Int a, Int b) {
  return {_mm512_add_epi32(a.v, b.v)};
}
LAMELLA_INLINE Int operator-(Int a, Int b) {
  return {_mm512_sub_epi32(a.v, b.v)};
}
LAMELLA_INLINE Int operator&(Int a, Int b) {
  return {_mm512_and_si512(a.v, b.v)};
}
LAMELLA_INLINE Int operator|(Int a, Int b) {
  return {_mm512_or_si512(a.v, b.v)};
}
LAMELLA_INLINE Int operator^(Int a, Int b) {
  return {_mm512_xor_si512(a.v, b.v)};
}
template <int n>
LAMELLA_INLINE Int shift_left(Int a) {
  return {_mm512_slli_epi32(a.v, n)};
}
template <int n>
LAMELLA_INLINE Int shift_right(Int a) {
  return {_mm512_srli_epi32(a.v, n)};
}
LAMELLA_INLINE Mask less_unsigned(Int a, Int b) {
  return {_mm512_cmplt_epu32_mask(a.v, b.v)};
}
LAMELLA_INLINE Int multiply_even(Int a, Int b) {
  return {_mm512_mul_epu32(a.v, b.v)};
}
LAMELLA_INLINE Int odd_to_even(Int a) {
  return {_mm512_srli_epi64(a.v, 32)};
}
LAMELLA_INLINE Int zip_even(Int a, Int b) {
  return {_mm512_mask_blend_epi32(0xAAAA, a.v, _mm512_slli_epi64(b.v, 32))};
}
LAMELLA_INLINE Int zip_pairs_low(Int a, Int b) {
  return {_mm512_unpacklo_epi64(a.v, b.v)};
}
LAMELLA_INLINE Int zip_pairs_high(Int a, Int b) {
  return {_mm512_unpackhi_epi64(a.v, b.v)};
}
LAMELLA_INLINE Int to_int(Float a) {
  return {_mm512_cvtps_epi32(a.v)};
}
LAMELLA_INLINE Float to_float(Int a) {
  return {_mm512_cvtepi32_ps(a.v)};
}
LAMELLA_INLINE Int bits(Float a) {
  return {_mm512_castps_si512(a.v)};
}
LAMELLA_INLINE Float from_bits(Int a) {
  return {_mm512_castsi512_ps(a.v)};
}

LAMELLA_INLINE float sum(Float a) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
// NaN lanes may be lost: callers that must keep them test is_nan themselves.
LAMELLA_INLINE float maximum(Float a) {
  const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

LAMELLA_INLINE bool any(Mask m) {
  return m.v != 0;
}

}  // namespace lamella::LAMELLA_ISA
