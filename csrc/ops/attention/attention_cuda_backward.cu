#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "ops/attention/attention.h"
namespace lamella::attention::device {
void backward(const Problem&, const Saved&, const Gradients&) {}
}
