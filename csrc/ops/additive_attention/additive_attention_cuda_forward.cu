// Additive attention forward on the device: the launches.
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "ops/additive_attention/additive_attention_cuda_forward.cuh"
#include "ops/additive_attention/additive_attention_cuda_results.h"

namespace lamella::additive_attention {

void results_on_device(const Problem& problem, float* y, float* lse, float* weights) {
  switch (tiles::additive_columns(problem)) {
    case 4:
      return tiles::forward_of_columns<4>(problem, y, lse, weights);
    case 2:
      return tiles::forward_of_columns<2>(problem, y, lse, weights);
    default:
      return tiles::forward_of_columns<1>(problem, y, lse, weights);
  }
}

namespace device {

void backward(const Problem&, const ResultGradients&, const Gradients&);

namespace {

void forward(const Problem& problem, const Results& out) {
  const attention::Problem& p = problem.pairs;
  if (p.batch * p.queries == 0) return;
  const Scratch<float> lse(p.op, out.weights == nullptr ? 0 : p.batch * p.queries);
  results_on_device(problem, out.y, lse.get(), out.weights);
}

}  // namespace

extern const Kernels kernels = {forward, backward};

}  // namespace device
}  // namespace lamella::additive_attention
