// float16 and bfloat16, by CUDA's names. Arithmetic is float32, rounded to the nearest even after
// each operation, as the hardware's is; NaNs become the canonical one.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstring>

#include "simt/vector_types.h"

namespace lamella::simt {

inline std::uint32_t bits_of(float v) {
  std::uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}
inline float float_of(std::uint32_t bits) {
  float v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

inline float half_to_float(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  const std::uint32_t rest = h & 0x7FFFu;
  if (rest >= 0x7C00) return float_of(sign | 0x7F800000u | (rest & 0x3FFu) << 13);
  // Subnormal halfs are normal floats: the product with 2^112 makes them so.
  return float_of(sign | bits_of(float_of(rest << 13) * 0x1p112f));
}

inline std::uint16_t float_to_half(float v) {
  const std::uint32_t bits = bits_of(v);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const std::uint32_t rest = bits & 0x7FFFFFFFu;
  if (rest > 0x7F800000u) return 0x7FFF;
  if (rest >= 0x477FF000u) return static_cast<std::uint16_t>(sign | 0x7C00u);  // 65520 and above
  if (rest < 0x38800000u) {
    // Subnormal: adding 0.5 leaves the multiple of 2^-24, rounded, in the low bits.
    return static_cast<std::uint16_t>(sign | (bits_of(float_of(rest) + 0.5f) - 0x3F000000u));
  }
  const std::uint32_t rounded = rest + 0xFFFu + (rest >> 13 & 1u);
  return static_cast<std::uint16_t>(sign | (rounded - 0x38000000u) >> 13);
}

inline float bfloat16_to_float(std::uint16_t b) {
  return float_of(static_cast<std::uint32_t>(b) << 16);
}

inline std::uint16_t float_to_bfloat16(float v) {
  const std::uint32_t bits = bits_of(v);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFF;
  return static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

// A 16-bit float; Tag tells the two apart.
template <class Tag, float (*to_float)(std::uint16_t), std::uint16_t (*from_float)(float)>
struct Float16 {
  std::uint16_t bits;

  Float16() = default;
  Float16(float v) : bits(from_float(v)) {}
  Float16(double v) : bits(from_float(static_cast<float>(v))) {}
  Float16(int v) : bits(from_float(static_cast<float>(v))) {}
  operator float() const { return to_float(bits); }

  friend Float16 operator+(Float16 a, Float16 b) { return to_float(a.bits) + to_float(b.bits); }
  friend Float16 operator-(Float16 a, Float16 b) { return to_float(a.bits) - to_float(b.bits); }
  friend Float16 operator*(Float16 a, Float16 b) { return to_float(a.bits) * to_float(b.bits); }
  friend Float16 operator/(Float16 a, Float16 b) { return to_float(a.bits) / to_float(b.bits); }
  Float16 operator-() const {
    Float16 negative = *this;
    negative.bits ^= 0x8000u;
    return negative;
  }
  Float16& operator+=(Float16 b) { return *this = *this + b; }
  Float16& operator-=(Float16 b) { return *this = *this - b; }
  Float16& operator*=(Float16 b) { return *this = *this * b; }
  friend bool operator==(Float16 a, Float16 b) { return to_float(a.bits) == to_float(b.bits); }
  friend bool operator!=(Float16 a, Float16 b) { return to_float(a.bits) != to_float(b.bits); }
  friend bool operator<(Float16 a, Float16 b) { return to_float(a.bits) < to_float(b.bits); }
  friend bool operator<=(Float16 a, Float16 b) { return to_float(a.bits) <= to_float(b.bits); }
  friend bool operator>(Float16 a, Float16 b) { return to_float(a.bits) > to_float(b.bits); }
  friend bool operator>=(Float16 a, Float16 b) { return to_float(a.bits) >= to_float(b.bits); }
};

struct HalfTag;
struct Bfloat16Tag;

template <class T>
struct alignas(4) Pair {
  T x, y;
  Pair() = default;
  Pair(T x_, T y_) : x(x_), y(y_) {}
  friend Pair operator+(Pair a, Pair b) { return {a.x + b.x, a.y + b.y}; }
  friend Pair operator-(Pair a, Pair b) { return {a.x - b.x, a.y - b.y}; }
  friend Pair operator*(Pair a, Pair b) { return {a.x * b.x, a.y * b.y}; }
};

}  // namespace lamella::simt

using __half = lamella::simt::Float16<lamella::simt::HalfTag, lamella::simt::half_to_float,
                                      lamella::simt::float_to_half>;
using __nv_bfloat16 =
    lamella::simt::Float16<lamella::simt::Bfloat16Tag, lamella::simt::bfloat16_to_float,
                           lamella::simt::float_to_bfloat16>;
using __half2 = lamella::simt::Pair<__half>;
using __nv_bfloat162 = lamella::simt::Pair<__nv_bfloat16>;
using half = __half;
using half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

// ---- conversions -----------------------------------------------------------------------------

inline __half __float2half(float v) {
  return v;
}
inline __half __float2half_rn(float v) {
  return v;
}
inline float __half2float(__half v) {
  return v;
}
inline __half2 __floats2half2_rn(float x, float y) {
  return {x, y};
}
inline __half2 __float22half2_rn(float2 v) {
  return {v.x, v.y};
}
inline __half2 __float2half2_rn(float v) {
  return {v, v};
}
inline float2 __half22float2(__half2 v) {
  return {v.x, v.y};
}
inline __half2 __halves2half2(__half x, __half y) {
  return {x, y};
}
inline __half2 make_half2(__half x, __half y) {
  return {x, y};
}
inline __half2 __half2half2(__half v) {
  return {v, v};
}
inline float __low2float(__half2 v) {
  return v.x;
}
inline float __high2float(__half2 v) {
  return v.y;
}
inline __half __low2half(__half2 v) {
  return v.x;
}
inline __half __high2half(__half2 v) {
  return v.y;
}
inline unsigned short __half_as_ushort(__half v) {
  return v.bits;
}
inline __half __ushort_as_half(unsigned short bits) {
  __half v;
  v.bits = bits;
  return v;
}

inline __nv_bfloat16 __float2bfloat16(float v) {
  return v;
}
inline __nv_bfloat16 __float2bfloat16_rn(float v) {
  return v;
}
inline float __bfloat162float(__nv_bfloat16 v) {
  return v;
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {x, y};
}
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) {
  return {v.x, v.y};
}
inline __nv_bfloat162 __float2bfloat162_rn(float v) {
  return {v, v};
}
inline float2 __bfloat1622float2(__nv_bfloat162 v) {
  return {v.x, v.y};
}
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) {
  return {x, y};
}
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) {
  return {x, y};
}
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 v) {
  return {v, v};
}
inline float __low2float(__nv_bfloat162 v) {
  return v.x;
}
inline float __high2float(__nv_bfloat162 v) {
  return v.y;
}
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v) {
  return v.x;
}
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v) {
  return v.y;
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) {
  return v.bits;
}
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  __nv_bfloat16 v;
  v.bits = bits;
  return v;
}

// ---- arithmetic ------------------------------------------------------------------------------

namespace lamella::simt {

template <class T>
concept Is16 = std::same_as<T, __half> || std::same_as<T, __nv_bfloat16>;
template <class T>
concept Is16Pair = std::same_as<T, __half2> || std::same_as<T, __nv_bfloat162>;

}  // namespace lamella::simt

template <lamella::simt::Is16 T>
T __hadd(T a, T b) {
  return a + b;
}
template <lamella::simt::Is16 T>
T __hsub(T a, T b) {
  return a - b;
}
template <lamella::simt::Is16 T>
T __hmul(T a, T b) {
  return a * b;
}
template <lamella::simt::Is16 T>
bool __hisnan(T v) {
  return std::isnan(static_cast<float>(v));
}
template <lamella::simt::Is16 T>
T __hmax(T a, T b) {
  return T(std::fmax(static_cast<float>(a), static_cast<float>(b)));
}
template <lamella::simt::Is16 T>
T __hmin(T a, T b) {
  return T(std::fmin(static_cast<float>(a), static_cast<float>(b)));
}
template <lamella::simt::Is16Pair T>
T __hadd2(T a, T b) {
  return a + b;
}
template <lamella::simt::Is16Pair T>
T __hsub2(T a, T b) {
  return a - b;
}
template <lamella::simt::Is16Pair T>
T __hmul2(T a, T b) {
  return a * b;
}
