#include "core/memory_pool.h"
#include "gemm/bias_gradient.h"
#include "gemm/gemm.h"
#include "ops/dense/dense.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {
namespace {

void product(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b,
             float* c, const Finish& finish) {
  const GemmPlan plan = gemm_plan(m, n, k, a, b, num_threads());
  const Scratch<float> workspace("dense", plan.workspace());
  gemm(plan, a, b, c, n, finish, workspace.get());
}

void forward(const dense::Forward& p) {
  Finish finish;
  finish.bias = p.bias;
  finish.activation = p.activation;
  finish.pre_activation = p.pre_activation;
  product(p.rows, p.units, p.inputs, {p.x, p.inputs, 1}, {p.kernel, p.units, 1}, p.y, finish);
}

void backward(const dense::Backward& p) {
  if (p.dx != nullptr) {
    product(p.rows, p.inputs, p.units, {p.dz, p.units, 1}, {p.kernel, 1, p.units}, p.dx, {});
  }
  if (p.dkernel != nullptr) {
    product(p.inputs, p.units, p.rows, {p.x, 1, p.inputs}, {p.dz, p.units, 1}, p.dkernel, {});
  }
  if (p.dbias != nullptr) bias_gradient(p.dz, p.rows, p.units, p.dbias);
}

// Many small products are spread over the threads whole; a few large ones one after the other,
// each over all threads.
void matmul(const dense::Matmul& p) {
  const Matrix a = {p.a, p.a_row, p.a_column};
  const Matrix b = {p.b, p.b_row, p.b_column};
  const bool spread = p.batch > 1 && !p.accumulate && p.m * p.n * p.k < (1 << 20);
  const int slots = spread ? num_threads() : 1;
  const GemmPlan plan = gemm_plan(p.m, p.n, p.k, a, b, spread ? 1 : num_threads());
  const Scratch<float> workspace("matmul", plan.workspace() * slots);
  const auto one = [&](std::int64_t q, int slot) {
    Finish finish;
    finish.accumulate = p.accumulate;
    gemm(plan, {p.a + p.a_offset[q], p.a_row, p.a_column},
         {p.b + p.b_offset[q], p.b_row, p.b_column}, p.c + p.c_offset[q], p.n, finish,
         workspace.get() + slot * plan.workspace());
  };
  if (spread) return parallel_for_slots(p.batch, slots, one);
  for (std::int64_t q = 0; q < p.batch; ++q) one(q, 0);
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::dense::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::forward, kernel::backward, kernel::matmul};

}  // namespace lamella::dense::LAMELLA_ISA
