// The device's matrix product in the element types that no op has yet: a library of C functions for
// tests/test_gemm_device.py.
#include <cstdio>
#include <exception>

#include "cuda/kernel.cuh"
#include "cuda/gemm.cuh"
#include "cuda/gemm_mma.cuh"

namespace lamella::device {
namespace {

// a (results, m, k) and b (results, k, n) with the strides of their orientation, c (results, m, n).
struct Arguments {
  std::int64_t results, m, n, k;
  const void* a;
  const void* b;
  void* c;
  std::int64_t a_stride, b_stride;  // between rows of a contiguous axis
  bool a_along_rows, b_along_rows;
  bool vectors;
};

template <class T, class Tiles, bool a_along_rows, bool b_along_rows>
void multiply(Tiles tiles, const Arguments& p) {
  const auto size = [](bool along_rows, std::int64_t rows, std::int64_t k, std::int64_t stride) {
    return (along_rows ? k : rows) * stride;
  };
  const gemm::Strided<T, a_along_rows> a{static_cast<const T*>(p.a),
                                         {nullptr, size(a_along_rows, p.m, p.k, p.a_stride)},
                                         p.m, p.k, p.a_stride, p.vectors};
  const gemm::Strided<T, b_along_rows> b{static_cast<const T*>(p.b),
                                         {nullptr, size(b_along_rows, p.n, p.k, p.b_stride)},
                                         p.n, p.k, p.b_stride, p.vectors};
  const gemm::StoreAs<T> finish{static_cast<T*>(p.c), {nullptr, p.m * p.n}, p.n, p.vectors, false,
                                nullptr};
  gemm::product(tiles, "gemm", {p.m, p.n, p.k, p.results}, a, b, finish);
}

template <class T, bool a_along_rows, bool b_along_rows>
void multiply_as(const Arguments& p) {
  if constexpr (sizeof(T) == 4) {
    multiply<T, gemm::Tf32Tiles, a_along_rows, b_along_rows>({}, p);
  } else {
    multiply<T, gemm::MmaTiles<T, a_along_rows, b_along_rows>, a_along_rows, b_along_rows>({}, p);
  }
}

template <class T>
void multiply_any(const Arguments& p) {
  if (p.a_along_rows && p.b_along_rows) return multiply_as<T, true, true>(p);
  if (p.a_along_rows) return multiply_as<T, true, false>(p);
  if (p.b_along_rows) return multiply_as<T, false, true>(p);
  multiply_as<T, false, false>(p);
}

}  // namespace
}  // namespace lamella::device

// type: 0 bfloat16, 1 float16, 2 float32 by TF32. Returns 0, or 1 and the message in `error`.
extern "C" int gemm_product(int type, const std::int64_t* sizes, const void* a, const void* b,
                            void* c, int vectors, char* error, int error_size) {
  using namespace lamella::device;
  const Arguments p{sizes[0], sizes[1], sizes[2],      sizes[3],      a,           b, c,
                    sizes[4], sizes[5], sizes[6] != 0, sizes[7] != 0, vectors != 0};
  try {
    if (type == 0) multiply_any<__nv_bfloat16>(p);
    if (type == 1) multiply_any<__half>(p);
    if (type == 2) multiply_any<float>(p);
    return 0;
  } catch (const std::exception& e) {
    std::snprintf(error, static_cast<std::size_t>(error_size), "%s", e.what());
    return 1;
  }
}
