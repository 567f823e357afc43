// Tensor-core work on the executor: what cuda/mma.cuh is made of there.
#pragma once

#include "simt/executor.h"
#include "simt/half.h"

namespace lamella::simt {

void load_matrix(unsigned* registers, int count, bool transposed, const void* row, Location where);

// T: __half or __nv_bfloat16.
template <class T>
void multiply_16(float* d, const unsigned* a, const unsigned* b, Location where);

void multiply_tf32(float* d, const unsigned* a, const unsigned* b, Location where);

inline unsigned tf32(float v) {
  if (v != v) return 0x7FFFFFFFu;
  const unsigned bits = bits_of(v);
  // Infinity has no fraction to round.
  return (bits & 0x7F800000u) == 0x7F800000u ? bits : (bits + 0x1000u) & ~0x1FFFu;
}

}  // namespace lamella::simt
