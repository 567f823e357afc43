// Additive attention forward on the device: the launches.
#include "core/memory_pool.h"
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "ops/additive_attention/additive_attention_cuda_forward.cuh"

namespace lamella::additive_attention {

void results_on_device(const Problem& problem, float* y, const RowTotals& totals, float* weights) {
  switch (tiles::additive_columns(problem)) {
    case 4:
      return tiles::forward_of_columns<4>(problem, y, totals, weights);
    case 2:
      return tiles::forward_of_columns<2>(problem, y, totals, weights);
    default:
      return tiles::forward_of_columns<1>(problem, y, totals, weights);
  }
}

namespace device {

void backward(const Problem&, const ResultGradients&, const Gradients&);

namespace {

void forward(const Problem& problem, const Results& out) {
  const attention::Problem& p = problem.pairs;
  if (p.batch * p.queries == 0) return;
  const std::int64_t rows = out.weights == nullptr ? 0 : p.batch * p.queries;
  const Scratch<float> maxima(p.op, rows);
  const Scratch<float> inverses(p.op, rows);
  results_on_device(problem, out.y, {maxima.get(), inverses.get()}, out.weights);
}

}  // namespace

extern const Kernels kernels = {forward, backward};

}  // namespace device
}  // namespace lamella::additive_attention
