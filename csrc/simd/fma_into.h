// Accumulation for kernels that keep many sums in registers.
#pragma once

#include "simd/vec.h"

namespace lamella::LAMELLA_ISA {

// acc += a * b, always in acc's own register and with both factors in registers: left to itself GCC
// writes the sum over an operand and moves it back, ends up with accumulators on the stack, and
// loads a factor again for each product it is in.
LAMELLA_INLINE void fma_into(Float& acc, Float a, Float b) {
#if defined(LAMELLA_ISA_avx512)
  asm("vfmadd231ps %2, %1, %0" : "+v"(acc.v) : "v"(a.v), "v"(b.v));
#elif defined(LAMELLA_ISA_avx2)
  asm("vfmadd231ps %2, %1, %0" : "+x"(acc.v) : "x"(a.v), "x"(b.v));
#else
  acc = fma(a, b, acc);
#endif
}

}  // namespace lamella::LAMELLA_ISA
