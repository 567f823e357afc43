// The register tile of the microkernels: rows * vectors sums, from and to memory.
#pragma once

#include "gemm/tile.h"
#include "simd/fma_into.h"

namespace lamella::LAMELLA_ISA {

template <int rows, int vectors>
struct Accumulators {
  Float v[rows][vectors];

  LAMELLA_INLINE void begin(const Tile& t) {
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) {
      const std::int64_t left = t.columns - j * Float::width;
      if (t.accumulate) {
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
          const float* c = t.c[r] + j * Float::width;
          v[r][j] = left >= Float::width ? load(c) : load_n(c, max_i(left, 0));
        }
      } else {
        const float* bias = t.bias + j * Float::width;
        const Float first = t.bias == nullptr      ? zero()
                            : left >= Float::width ? load(bias)
                                                   : load_n(bias, max_i(left, 0));
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) v[r][j] = first;
      }
    }
  }

  LAMELLA_INLINE void end(const Tile& t) {
    if (t.relu) {
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) v[r][j] = max(zero(), v[r][j]);
      }
    }
    if (t.stream && t.columns == vectors * Float::width) {
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) stream(t.c[r] + j * Float::width, v[r][j]);
      }
      return;
    }
    if (t.columns == vectors * Float::width) {
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) store(t.c[r] + j * Float::width, v[r][j]);
      }
      return;
    }
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) {
      const std::int64_t left = t.columns - j * Float::width;
      if (left <= 0) return;
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        store_n(t.c[r] + j * Float::width, v[r][j], min_i(left, Float::width));
      }
    }
  }

  // One term of the reduction; a(r) is the broadcast operand of row r.
  template <class A>
  LAMELLA_INLINE void step(const float* b, const A& a) {
    Float bv[vectors];
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) bv[j] = load(b + j * Float::width);
    step(bv, a);
  }
  template <class A>
  LAMELLA_INLINE void step(const Float (&bv)[vectors], const A& a) {
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const Float av = set(a(r));
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) fma_into(v[r][j], av, bv[j]);
    }
  }
};

}  // namespace lamella::LAMELLA_ISA
