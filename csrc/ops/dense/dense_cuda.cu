// dense and matmul on the device's matrix product.
#include "cuda/gemm.cuh"
#include "cuda/gemm_skinny.cuh"
#include "cuda/kernel.cuh"
#include "cuda/sum_axis.cuh"
#include "ops/dense/dense.h"
#include "ops/dense/matmul_groups.h"

namespace lamella::LAMELLA_ISA {
namespace {

using gemm::Matrix;
using gemm::Offsets;
using gemm::Problem;

template <bool a_along_rows, bool b_along_rows, class Finish>
void tiled_product(const char* op, const Problem& p, const Matrix& a, const Matrix& b,
                   const Finish& finish) {
  gemm::product(gemm::FmaTiles{}, op, p, gemm::operand<a_along_rows>(a, p.m, p.k),
                gemm::operand<b_along_rows>(b, p.n, p.k), finish);
}

// finish(A B), a and b each contiguous along k or along rows.
void product(const char* op, const Problem& p, const Matrix& a, const Matrix& b,
             const gemm::Store& finish) {
  if (gemm::skinny_product(op, p, a, b, finish)) return;
  if (a.row_stride == 1) {
    if (b.row_stride == 1) return tiled_product<true, true>(op, p, a, b, finish);
    return tiled_product<true, false>(op, p, a, b, finish);
  }
  if (b.row_stride == 1) return tiled_product<false, true>(op, p, a, b, finish);
  tiled_product<false, false>(op, p, a, b, finish);
}

gemm::Store store(float* c, std::int64_t n, const float* bias) {
  return {c, {}, n, aligned_for_vectors(c) && n % 4 == 0, false, bias};
}

void forward(const dense::Forward& p) {
  const Problem problem{p.rows, p.units, p.inputs};
  const Matrix x = {p.x, {}, true, p.inputs, 1};
  const Matrix kernel = {p.kernel, {}, true, 1, p.units};
  if (p.activation.kind == Kind::linear && p.pre_activation == nullptr) {
    return product("dense", problem, x, kernel, store(p.y, p.units, p.bias));
  }
  const bool vectors = aligned_for_vectors(p.y, p.pre_activation) && p.units % 4 == 0;
  const gemm::Activate finish{p.y, p.pre_activation, {}, p.units, vectors, p.bias, p.activation};
  if (gemm::skinny_product("dense", problem, x, kernel, finish)) return;
  tiled_product<false, true>("dense", problem, x, kernel, finish);
}

void backward(const dense::Backward& p) {
  if (p.dx != nullptr) {
    product("dense", {p.rows, p.inputs, p.units}, {p.dz, {}, true, p.units, 1},
            {p.kernel, {}, true, p.units, 1}, store(p.dx, p.inputs, nullptr));
  }
  if (p.dkernel != nullptr) {
    product("dense", {p.inputs, p.units, p.rows}, {p.x, {}, true, 1, p.inputs},
            {p.dz, {}, true, 1, p.units}, store(p.dkernel, p.units, nullptr));
  }
  if (p.dbias != nullptr) bias_gradient("dense", p.dz, p.rows, p.units, p.dbias);
}

// The tables that go to the device for one product.
class DeviceOffsets {
 public:
  explicit DeviceOffsets(const dense::OffsetList& list)
      : table_("matmul", list.values.data(),
               list.stride < 0 ? static_cast<std::int64_t>(list.values.size()) : 0) {
    offsets = {table_.get(), larger<std::int64_t>(0, list.stride)};
  }

  Offsets offsets;

 private:
  Table<std::int64_t> table_;
};

void matmul(const dense::Matmul& p) {
  if (p.batch == 0 || p.m == 0 || p.n == 0) return;
  const dense::MatmulGroups g = dense::matmul_groups(p);
  const DeviceOffsets a(g.a);
  const DeviceOffsets b(g.b);
  const DeviceOffsets c(g.c);
  const Table<std::int64_t> first("matmul", g.first.data(),
                                  static_cast<std::int64_t>(g.first.size()));
  const Problem problem{g.m, p.n, g.k, g.results, g.terms, first.get()};
  const bool c_vectors = aligned_for_vectors(p.c + g.c.base) && p.n % 4 == 0 && g.c.even;
  product("matmul", problem, {p.a + g.a.base, a.offsets, g.a.even, p.a_row, p.a_column},
          {p.b + g.b.base, b.offsets, g.b.even, p.b_column, p.b_row},
          gemm::Store{p.c + g.c.base, c.offsets, p.n, c_vectors, p.accumulate, nullptr});
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::dense::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::forward, kernel::backward, kernel::matmul};

}  // namespace lamella::dense::LAMELLA_ISA
