// dense and matmul on the device's matrix product.
#include "cuda/kernel.cuh"
#include "cuda/gemm.cuh"
#include "cuda/sum_axis.cuh"
#include "ops/dense/dense.h"
#include "ops/dense/matmul_groups.h"

namespace lamella::LAMELLA_ISA {
namespace {

using gemm::Offsets;
using gemm::Problem;
using gemm::Strided;

// A matrix operand of a product from its own side: element (row, k).
struct Matrix {
  const float* data;
  Offsets offsets;
  bool even;  // all offsets are multiples of 4
  std::int64_t row_stride, k_stride;
};

template <bool along_rows>
Strided<float, along_rows> operand(const Matrix& x, std::int64_t rows, std::int64_t k) {
  const std::int64_t stride = along_rows ? x.k_stride : x.row_stride;
  const bool vectors = aligned_for_vectors(x.data) && x.even && stride % 4 == 0 && rows % 4 == 0;
  return {x.data, x.offsets, rows, k, stride, vectors};
}

// finish(A B), a and b each contiguous along k or along rows.
template <class Finish>
void product(const char* op, const Problem& p, const Matrix& a, const Matrix& b,
             const Finish& finish) {
  const auto with_b = [&](const auto& a_operand) {
    if (b.row_stride == 1) {
      gemm::product(gemm::FmaTiles{}, op, p, a_operand, operand<true>(b, p.n, p.k), finish);
    } else {
      gemm::product(gemm::FmaTiles{}, op, p, a_operand, operand<false>(b, p.n, p.k), finish);
    }
  };
  if (a.row_stride == 1) {
    with_b(operand<true>(a, p.m, p.k));
  } else {
    with_b(operand<false>(a, p.m, p.k));
  }
}

void forward(const dense::Forward& p) {
  const Problem problem{p.rows, p.units, p.inputs};
  const auto x = operand<false>({p.x, {}, true, p.inputs, 1}, p.rows, p.inputs);
  const auto kernel = operand<true>({p.kernel, {}, true, 1, p.units}, p.units, p.inputs);
  if (p.activation.kind == Kind::linear && p.pre_activation == nullptr) {
    const bool vectors = aligned_for_vectors(p.y) && p.units % 4 == 0;
    const gemm::Store finish{p.y, {}, p.units, vectors, false, p.bias};
    return gemm::product(gemm::FmaTiles{}, "dense", problem, x, kernel, finish);
  }
  const bool vectors = aligned_for_vectors(p.y, p.pre_activation) && p.units % 4 == 0;
  const gemm::Activate finish{p.y, p.pre_activation, {}, p.units, vectors, p.bias, p.activation};
  gemm::product(gemm::FmaTiles{}, "dense", problem, x, kernel, finish);
}

void backward(const dense::Backward& p) {
  const auto store = [](float* c, std::int64_t n) {
    return gemm::Store{c, {}, n, aligned_for_vectors(c) && n % 4 == 0, false, nullptr};
  };
  if (p.dx != nullptr) {
    product("dense", {p.rows, p.inputs, p.units}, {p.dz, {}, true, p.units, 1},
            {p.kernel, {}, true, p.units, 1}, store(p.dx, p.inputs));
  }
  if (p.dkernel != nullptr) {
    product("dense", {p.inputs, p.units, p.rows}, {p.x, {}, true, 1, p.inputs},
            {p.dz, {}, true, 1, p.units}, store(p.dkernel, p.units));
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
