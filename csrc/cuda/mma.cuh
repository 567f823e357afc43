// Tensor cores by the warp: mma.sync and ldmatrix. Every function is met by all 32 lanes of a warp.
//
// Who holds what (PTX ISA, "Matrix multiply-accumulate operation using mma instruction"), with
// g = lane / 4 and t = lane % 4:
//
//   D, C 16x8 float32    d[0] (g, 2t)   d[1] (g, 2t+1)   d[2] (g+8, 2t)   d[3] (g+8, 2t+1)
//   A 16x16, 16 bits     a[0] (g, 2t) and (g, 2t+1), the lower half first; a[1] rows g+8;
//                        a[2] (g, 2t+8) and (g, 2t+9); a[3] rows g+8 of these
//   B 16x8, 16 bits      b[0] (2t, g) and (2t+1, g); b[1] (2t+8, g) and (2t+9, g)
//   A 16x8, TF32         a[0] (g, t)   a[1] (g+8, t)   a[2] (g, t+4)   a[3] (g+8, t+4)
//   B 8x8, TF32          b[0] (t, g)   b[1] (t+4, g)
//
// ldmatrix<4> on the rows of a row-major A tile (lanes 0-15: rows 0-15 at column 0, lanes 16-31:
// the same at column 8) gives a[0..3]; ldmatrix<2> on the rows of a B stored as [n][k] (lanes 0-7
// at k 0, 8-15 at k 8) gives b[0..1], and ldmatrix<2, true> on the rows of a B stored as [k][n]
// (lanes 0-15: rows k 0-15) the same.
#pragma once

#include "cuda/kernel.cuh"
#if defined(LAMELLA_SIMT)
#include "simt/mma.h"
#endif

namespace lamella::device {

// Whether this architecture's tensor cores take bfloat16 and TF32 (8.0 and later); float16 all do.
// Device code only: branch with `if constexpr`, for without it their mma traps.
#if defined(LAMELLA_SIMT) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800)
constexpr bool has_bf16_mma = true;
#else
constexpr bool has_bf16_mma = false;
#endif

#if defined(LAMELLA_SIMT)

// `count` (1, 2 or 4) matrices of 8 rows of 8 16-bit elements from shared memory. Lanes 8i to
// 8i + 7 give the addresses of the rows of matrix i, multiples of 16. Lane l gets from each
// matrix row l / 4, columns 2 (l % 4) and the next; transposed: of its transpose.
template <int count, bool transposed = false>
void ldmatrix(unsigned (&registers)[count], const void* row,
              simt::Location where = simt::Location::current()) {
  static_assert(count == 1 || count == 2 || count == 4);
  simt::load_matrix(registers, count, transposed, row, where);
}

// d += a b, 16-bit operands (T: __half or __nv_bfloat16), in float32.
template <class T>
void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                  simt::Location where = simt::Location::current()) {
  simt::multiply_16<T>(d, a, b, where);
}

// d += a b, TF32 operands (see tf32).
inline void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                             simt::Location where = simt::Location::current()) {
  simt::multiply_tf32(d, a, b, where);
}

// To the nearest of TF32's 10 fraction bits, ties away from zero.
inline unsigned tf32(float v) {
  return simt::tf32(v);
}

#else

template <int count, bool transposed = false>
__device__ __forceinline__ void ldmatrix(unsigned (&registers)[count], const void* row) {
  static_assert(count == 1 || count == 2 || count == 4);
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (count == 1 && !transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(registers[0])
                 : "r"(address)
                 : "memory");
  } else if constexpr (count == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(registers[0])
                 : "r"(address)
                 : "memory");
  } else if constexpr (count == 2 && !transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(address)
                 : "memory");
  } else if constexpr (count == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(address)
                 : "memory");
  } else if constexpr (!transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
  }
}

template <class T>
struct Mma16;

template <>
struct Mma16<__half> {
  static __device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4],
                                                  const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
    for (int half_k = 0; half_k < 2; ++half_k) {
      asm volatile(
          "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
          "{%4, %5}, {%6}, {%0, %1, %2, %3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[2 * half_k]), "r"(a[2 * half_k + 1]), "r"(b[half_k]));
    }
#endif
  }
};

template <>
struct Mma16<__nv_bfloat16> {
  static __device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4],
                                                  const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap();
#endif
  }
};

template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4],
                                             const unsigned (&b)[2]) {
  Mma16<T>::multiply(d, a, b);
}

__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4],
                                                 const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

__device__ __forceinline__ unsigned tf32(float v) {
#if __CUDA_ARCH__ >= 800
  unsigned rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(v));
  return rounded;
#else
  __trap();
  return 0;
#endif
}

#endif

}  // namespace lamella::device
