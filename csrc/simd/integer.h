// Small integers that go with floats lane by lane, such as which position won a maximum: kept as
// bytes in memory, as Int (or its bits in a Float, so that `select` moves it) in registers.
//
//   store_bytes(p, i), store_bytes_n(p, i, n)    the lanes' low bytes; lanes lie in [0, 255]
//   load_bytes(p), load_bytes_n(p, n) -> Bytes   one byte a lane; other lanes read as 0
//   equal(bytes, k), equal(Int, Int)             -> Mask
#pragma once

#include "simd/vec.h"

namespace lamella::LAMELLA_ISA {

#if defined(LAMELLA_ISA_avx512)

struct Bytes {
  __m128i v;
};
LAMELLA_INLINE void store_bytes(std::uint8_t* p, Int a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}
LAMELLA_INLINE void store_bytes_n(std::uint8_t* p, Int a, std::int64_t n) {
  _mm512_mask_cvtepi32_storeu_epi8(p, first_lanes(n), a.v);
}
LAMELLA_INLINE Bytes load_bytes(const std::uint8_t* p) {
  return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))};
}
LAMELLA_INLINE Bytes load_bytes_n(const std::uint8_t* p, std::int64_t n) {
  return {_mm_maskz_loadu_epi8(first_lanes(n), p)};
}
LAMELLA_INLINE Mask equal(Bytes a, std::uint8_t k) {
  return {_mm_cmpeq_epi8_mask(a.v, _mm_set1_epi8(static_cast<char>(k)))};
}
LAMELLA_INLINE Mask equal(Int a, Int b) {
  return {_mm512_cmpeq_epi32_mask(a.v, b.v)};
}

#elif defined(LAMELLA_ISA_avx2)

struct Bytes {
  __m128i v;  // in the low half
};
LAMELLA_INLINE __m128i low_bytes(Int a) {
  const __m128i words =
      _mm_packus_epi32(_mm256_castsi256_si128(a.v), _mm256_extracti128_si256(a.v, 1));
  return _mm_packus_epi16(words, words);
}
LAMELLA_INLINE void store_bytes(std::uint8_t* p, Int a) {
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), low_bytes(a));
}
LAMELLA_INLINE void store_bytes_n(std::uint8_t* p, Int a, std::int64_t n) {
  std::uint8_t lanes[16];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(lanes), low_bytes(a));
  for (std::int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}
LAMELLA_INLINE Bytes load_bytes(const std::uint8_t* p) {
  return {_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))};
}
LAMELLA_INLINE Bytes load_bytes_n(const std::uint8_t* p, std::int64_t n) {
  // Not by way of memory: a wide load right after narrow stores has to wait for them.
  std::uint64_t packed = 0;
  for (std::int64_t i = 0; i < n; ++i) packed |= static_cast<std::uint64_t>(p[i]) << (8 * i);
  return {_mm_cvtsi64_si128(static_cast<long long>(packed))};
}
LAMELLA_INLINE Mask equal(Bytes a, std::uint8_t k) {
  const __m128i same = _mm_cmpeq_epi8(a.v, _mm_set1_epi8(static_cast<char>(k)));
  return {_mm256_castsi256_ps(_mm256_cvtepi8_epi32(same))};
}
LAMELLA_INLINE Mask equal(Int a, Int b) {
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(a.v, b.v))};
}

#elif defined(__SSE2__)

struct Bytes {
  __m128i v;  // in the low quarter
};
LAMELLA_INLINE std::int32_t low_bytes(Int a) {
  const __m128i words = _mm_packs_epi32(a.v, a.v);
  return _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
}
LAMELLA_INLINE void store_bytes_n(std::uint8_t* p, Int a, std::int64_t n) {
  std::uint8_t lanes[4];
  const std::int32_t packed = low_bytes(a);
  std::memcpy(lanes, &packed, 4);
  for (std::int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}
LAMELLA_INLINE void store_bytes(std::uint8_t* p, Int a) {
  const std::int32_t packed = low_bytes(a);
  std::memcpy(p, &packed, 4);
}
LAMELLA_INLINE Bytes load_bytes(const std::uint8_t* p) {
  std::int32_t packed;
  std::memcpy(&packed, p, 4);
  return {_mm_cvtsi32_si128(packed)};
}
LAMELLA_INLINE Bytes load_bytes_n(const std::uint8_t* p, std::int64_t n) {
  // Not by way of memory: a wide load right after narrow stores has to wait for them.
  std::uint32_t packed = 0;
  for (std::int64_t i = 0; i < n; ++i) packed |= static_cast<std::uint32_t>(p[i]) << (8 * i);
  return {_mm_cvtsi32_si128(static_cast<std::int32_t>(packed))};
}
LAMELLA_INLINE Mask equal(Bytes a, std::uint8_t k) {
  __m128i same = _mm_cmpeq_epi8(a.v, _mm_set1_epi8(static_cast<char>(k)));
  same = _mm_unpacklo_epi8(same, same);
  return {_mm_castsi128_ps(_mm_unpacklo_epi16(same, same))};
}
LAMELLA_INLINE Mask equal(Int a, Int b) {
  return {_mm_castsi128_ps(_mm_cmpeq_epi32(a.v, b.v))};
}

#else

struct Bytes {
  std::uint8_t v[4];
};
LAMELLA_INLINE void store_bytes_n(std::uint8_t* p, Int a, std::int64_t n) {
  std::int32_t lanes[4];
  std::memcpy(lanes, &a, sizeof lanes);
  for (std::int64_t i = 0; i < n; ++i) p[i] = static_cast<std::uint8_t>(lanes[i]);
}
LAMELLA_INLINE void store_bytes(std::uint8_t* p, Int a) {
  store_bytes_n(p, a, 4);
}
LAMELLA_INLINE Bytes load_bytes_n(const std::uint8_t* p, std::int64_t n) {
  Bytes a = {};
  for (std::int64_t i = 0; i < n; ++i) a.v[i] = p[i];
  return a;
}
LAMELLA_INLINE Bytes load_bytes(const std::uint8_t* p) {
  return load_bytes_n(p, 4);
}

#if defined(LAMELLA_ISA_neon)
LAMELLA_INLINE Mask equal(Int a, Int b) {
  return {vceqq_s32(a.v, b.v)};
}
#else
LAMELLA_INLINE Mask equal(Int a, Int b) {
  return lanes<Mask>([&](int i) { return a.v[i] == b.v[i]; });
}
#endif
LAMELLA_INLINE Mask equal(Bytes a, std::uint8_t k) {
  const std::int32_t widened[4] = {a.v[0], a.v[1], a.v[2], a.v[3]};
  Int b;
  std::memcpy(&b, widened, sizeof b);
  return equal(b, set_int(k));
}

#endif

}  // namespace lamella::LAMELLA_ISA
