// One vector type for all kernels: `Float` holds `Float::width` floats, `Int` as many int32,
// `Mask` one truth value a lane. Which registers that means depends on the instruction set the
// including source is compiled for; everything lives in the namespace of that set, so that two
// versions of one inline function can never be merged by the linker.
//
//   load(p), store(p, v)            any alignment
//   stream(p, v)                    p aligned to the vector; past the caches where the set can, for
//     results that outgrow them (core/cache.h). A task that streams ends with stream_fence()
//   load_n(p, n), store_n(p, v, n)  the first n lanes, 0 <= n <= width; other lanes read as 0
//   set(x), zero()
//   + - * /, fma(a, b, c) = a*b + c, fnma(a, b, c) = c - a*b   (one rounding where the set has
//     FMA, two in the baseline), sqrt, abs
//   min(a, b), max(a, b)            b when either is NaN
//   less(a, b), less_equal, equal, is_nan -> Mask; select(mask, a, b) = mask ? a : b; &, |
//   round(x)                        to the nearest integer, ties to even, |x| < 2^31
//   to_int(x), to_float(i)          x integral
//   bits(x), from_bits(i)           reinterpretation
//   load_int(p), store_int(p, i)    any alignment
//   Int: +, -, &, |, ^, shift_left<n>, shift_right<n> (logical), all modulo 2^32
//   less_unsigned(i, j) -> Mask     lanes as uint32
//   multiply_even(i, j)             lanes 2k and 2k + 1 become the low and the high half of the
//     64-bit product of the lanes 2k of i and j as uint32
//   odd_to_even(i)                  lane 2k becomes lane 2k + 1 of i, odd lanes 0
//   zip_even(i, j)                  i0 j0 i2 j2 ...
//   zip_pairs_low(i, j), zip_pairs_high(i, j)   in each four lanes i0 i1 j0 j1, and i2 i3 j2 j3
//   sum(v), maximum(v)              over lanes, in one fixed order for each width
#pragma once

#include <cstdint>
#include <cstring>

#ifndef LAMELLA_ISA
#error "simd/vec.h is for sources compiled once per instruction set"
#endif

#define LAMELLA_INLINE inline __attribute__((always_inline))

#if defined(LAMELLA_ISA_avx512)
#include "simd/vec_avx512.h"
#elif defined(LAMELLA_ISA_avx2)
#include "simd/vec_avx2.h"
#elif defined(LAMELLA_ISA_neon)
#include "simd/vec_neon.h"
#elif defined(__SSE2__)
#include "simd/vec_sse2.h"
#else
#include "simd/vec_portable.h"
#endif

namespace lamella::LAMELLA_ISA {

// Streamed stores become visible before what the thread does next.
LAMELLA_INLINE void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Whether rows from p on, so many floats apart, can be streamed.
LAMELLA_INLINE bool can_stream(const float* p, std::int64_t row_stride) {
  return row_stride % Float::width == 0 &&
         reinterpret_cast<std::uintptr_t>(p) % (Float::width * sizeof(float)) == 0;
}

LAMELLA_INLINE std::int64_t min_i(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}
LAMELLA_INLINE std::int64_t max_i(std::int64_t a, std::int64_t b) {
  return a > b ? a : b;
}
LAMELLA_INLINE std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return a / b + (a % b > 0);
}

}  // namespace lamella::LAMELLA_ISA
