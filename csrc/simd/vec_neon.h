// AArch64 NEON: 4 lanes, 32 registers, FMA. See simd/vec.h for the contract.
#pragma once

#include <arm_neon.h>

namespace lamella::LAMELLA_ISA {

struct Float {
  static constexpr int width = 4;
  static constexpr int registers = 32;
  float32x4_t v;
};
struct Int {
  int32x4_t v;
};
struct Mask {
  uint32x4_t v;
};

LAMELLA_INLINE Float load(const float* p) {
  return {vld1q_f32(p)};
}
LAMELLA_INLINE void store(float* p, Float a) {
  vst1q_f32(p, a.v);
}
LAMELLA_INLINE void stream(float* p, Float a) {
  store(p, a);
}
LAMELLA_INLINE Float load_n(const float* p, std::int64_t n) {
  float lanes[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  for (std::int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return {vld1q_f32(lanes)};
}
LAMELLA_INLINE void store_n(float* p, Float a, std::int64_t n) {
  float lanes[4];
  vst1q_f32(lanes, a.v);
  for (std::int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}
LAMELLA_INLINE Float set(float x) {
  return {vdupq_n_f32(x)};
}
LAMELLA_INLINE Float zero() {
  return {vdupq_n_f32(0.0f)};
}

LAMELLA_INLINE Float operator+(Float a, Float b) {
  return {vaddq_f32(a.v, b.v)};
}
LAMELLA_INLINE Float operator-(Float a, Float b) {
  return {vsubq_f32(a.v, b.v)};
}
LAMELLA_INLINE Float operator*(Float a, Float b) {
  return {vmulq_f32(a.v, b.v)};
}
LAMELLA_INLINE Float operator/(Float a, Float b) {
  return {vdivq_f32(a.v, b.v)};
}
LAMELLA_INLINE Float fma(Float a, Float b, Float c) {
  return {vfmaq_f32(c.v, a.v, b.v)};
}
LAMELLA_INLINE Float fnma(Float a, Float b, Float c) {
  return {vfmsq_f32(c.v, a.v, b.v)};
}
LAMELLA_INLINE Float sqrt(Float a) {
  return {vsqrtq_f32(a.v)};
}
LAMELLA_INLINE Float abs(Float a) {
  return {vabsq_f32(a.v)};
}
// vminq/vmaxq give NaN when either is NaN; the contract gives b.
LAMELLA_INLINE Float min(Float a, Float b) {
  return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)};
}
LAMELLA_INLINE Float max(Float a, Float b) {
  return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)};
}
LAMELLA_INLINE Float round(Float a) {
  return {vrndnq_f32(a.v)};
}

LAMELLA_INLINE Mask less(Float a, Float b) {
  return {vcltq_f32(a.v, b.v)};
}
LAMELLA_INLINE Mask less_equal(Float a, Float b) {
  return {vcleq_f32(a.v, b.v)};
}
LAMELLA_INLINE Mask equal(Float a, Float b) {
  return {vceqq_f32(a.v, b.v)};
}
LAMELLA_INLINE Mask is_nan(Float a) {
  return {vmvnq_u32(vceqq_f32(a.v, a.v))};
}
LAMELLA_INLINE Mask operator&(Mask a, Mask b) {
  return {vandq_u32(a.v, b.v)};
}
LAMELLA_INLINE Mask operator|(Mask a, Mask b) {
  return {vorrq_u32(a.v, b.v)};
}
LAMELLA_INLINE Float select(Mask m, Float a, Float b) {
  return {vbslq_f32(m.v, a.v, b.v)};
}

LAMELLA_INLINE Int set_int(std::int32_t x) {
  return {vdupq_n_s32(x)};
}
LAMELLA_INLINE Int load_int(const std::int32_t* p) {
  return {vld1q_s32(p)};
}
LAMELLA_INLINE void store_int(std::int32_t* p, Int a) {
  vst1q_s32(p, a.v);
}
LAMELLA_INLINE Int operator+(Int a, Int b) {
  return {vaddq_s32(a.v, b.v)};
}
LAMELLA_INLINE Int operator-(Int a, Int b) {
  return {vsubq_s32(a.v, b.v)};
}
LAMELLA_INLINE Int operator&(Int a, Int b) {
  return {vandq_s32(a.v, b.v)};
}
LAMELLA_INLINE Int operator|(Int a, Int b) {
  return {vorrq_s32(a.v, b.v)};
}
LAMELLA_INLINE Int operator^(Int a, Int b) {
  return {veorq_s32(a.v, b.v)};
}
template <int n>
LAMELLA_INLINE Int shift_left(Int a) {
  return {vshlq_n_s32(a.v, n)};
}
template <int n>
LAMELLA_INLINE Int shift_right(Int a) {
  return {vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a.v), n))};
}
LAMELLA_INLINE Mask less_unsigned(Int a, Int b) {
  return {vcltq_u32(vreinterpretq_u32_s32(a.v), vreinterpretq_u32_s32(b.v))};
}
LAMELLA_INLINE Int multiply_even(Int a, Int b) {
  return {vreinterpretq_s32_u64(
      vmull_u32(vmovn_u64(vreinterpretq_u64_s32(a.v)), vmovn_u64(vreinterpretq_u64_s32(b.v))))};
}
LAMELLA_INLINE Int odd_to_even(Int a) {
  return {vreinterpretq_s32_u64(vshrq_n_u64(vreinterpretq_u64_s32(a.v), 32))};
}
LAMELLA_INLINE Int zip_even(Int a, Int b) {
  return {vtrn1q_s32(a.v, b.v)};
}
LAMELLA_INLINE Int zip_pairs_low(Int a, Int b) {
  return {
      vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a.v), vreinterpretq_s64_s32(b.v)))};
}
LAMELLA_INLINE Int zip_pairs_high(Int a, Int b) {
  return {
      vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a.v), vreinterpretq_s64_s32(b.v)))};
}
LAMELLA_INLINE Int to_int(Float a) {
  return {vcvtnq_s32_f32(a.v)};
}
LAMELLA_INLINE Float to_float(Int a) {
  return {vcvtq_f32_s32(a.v)};
}
LAMELLA_INLINE Int bits(Float a) {
  return {vreinterpretq_s32_f32(a.v)};
}
LAMELLA_INLINE Float from_bits(Int a) {
  return {vreinterpretq_f32_s32(a.v)};
}

LAMELLA_INLINE float sum(Float a) {
  const float32x2_t q = vadd_f32(vget_low_f32(a.v), vget_high_f32(a.v));
  return vget_lane_f32(q, 0) + vget_lane_f32(q, 1);
}
LAMELLA_INLINE float maximum(Float a) {
  return vmaxvq_f32(a.v);
}

LAMELLA_INLINE bool any(Mask m) {
  return vmaxvq_u32(m.v) != 0;
}

}  // namespace lamella::LAMELLA_ISA
