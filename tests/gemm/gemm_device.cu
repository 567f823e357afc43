// The device's matrix product by every tile, also of the element types that no op has yet: a
// library of C functions for tests/test_gemm_device.py.
#include <cstdio>
#include <exception>

#include "cuda/gemm.cuh"
#include "cuda/gemm_mma.cuh"
#include "cuda/kernel.cuh"

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
  int tile;  // in its list, or -1: the plan's choice
};

template <class T, bool a_along_rows, bool b_along_rows, class... Tile>
void multiply(gemm::TileList<Tile...> tiles, const Arguments& p) {
  const auto size = [](bool along_rows, std::int64_t rows, std::int64_t k, std::int64_t stride) {
    return (along_rows ? k : rows) * stride;
  };
  const gemm::Strided<T, a_along_rows> a{static_cast<const T*>(p.a),
                                         {nullptr, size(a_along_rows, p.m, p.k, p.a_stride)},
                                         p.m,
                                         p.k,
                                         p.a_stride,
                                         p.vectors};
  const gemm::Strided<T, b_along_rows> b{static_cast<const T*>(p.b),
                                         {nullptr, size(b_along_rows, p.n, p.k, p.b_stride)},
                                         p.n,
                                         p.k,
                                         p.b_stride,
                                         p.vectors};
  const gemm::StoreAs<T> finish{
      static_cast<T*>(p.c), {nullptr, p.m * p.n}, p.n, p.vectors, false, nullptr};
  const gemm::Problem problem{p.m, p.n, p.k, p.results};
  if (p.tile < 0) return gemm::product(tiles, "gemm", problem, a, b, finish);
  int index = 0;
  ((index++ == p.tile ? gemm::product(gemm::TileList<Tile>{}, "gemm", problem, a, b, finish)
                      : void()),
   ...);
}

enum class Type : int { bfloat16, float16, tf32, float32 };

template <bool a_along_rows, bool b_along_rows>
void multiply_as(Type type, const Arguments& p) {
  switch (type) {
    case Type::bfloat16:
      return multiply<__nv_bfloat16, a_along_rows, b_along_rows>(
          gemm::MmaTiles<__nv_bfloat16, a_along_rows, b_along_rows>{}, p);
    case Type::float16:
      return multiply<__half, a_along_rows, b_along_rows>(
          gemm::MmaTiles<__half, a_along_rows, b_along_rows>{}, p);
    case Type::tf32:
      return multiply<float, a_along_rows, b_along_rows>(gemm::Tf32Tiles{}, p);
    case Type::float32:
      return multiply<float, a_along_rows, b_along_rows>(gemm::FmaTiles{}, p);
  }
}

void multiply_any(Type type, const Arguments& p) {
  if (p.a_along_rows && p.b_along_rows) return multiply_as<true, true>(type, p);
  if (p.a_along_rows) return multiply_as<true, false>(type, p);
  if (p.b_along_rows) return multiply_as<false, true>(type, p);
  multiply_as<false, false>(type, p);
}

}  // namespace
}  // namespace lamella::device

// sizes: results, m, n, k, the strides of a and b, whether they lie along rows, whether 16-byte
// accesses fit, the tile. Returns 0, or 1 and the message in `error`.
extern "C" int gemm_product(int type, const std::int64_t* sizes, const void* a, const void* b,
                            void* c, char* error, int error_size) {
  using namespace lamella::device;
  const Arguments p{sizes[0],
                    sizes[1],
                    sizes[2],
                    sizes[3],
                    a,
                    b,
                    c,
                    sizes[4],
                    sizes[5],
                    sizes[6] != 0,
                    sizes[7] != 0,
                    sizes[8] != 0,
                    static_cast<int>(sizes[9])};
  try {
    multiply_any(static_cast<Type>(type), p);
    return 0;
  } catch (const std::exception& e) {
    std::snprintf(error, static_cast<std::size_t>(error_size), "%s", e.what());
    return 1;
  }
}
