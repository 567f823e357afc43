// What the two directions of layer_norm share on the device.
#pragma once

#include "cuda/row_team.cuh"
#include "ops/layer_norm/layer_norm.h"

namespace lamella::layer_norm::device {

using namespace lamella::device;

// Defined in layer_norm_cuda_backward.cu.
void backward(bool centered, const Backward& p);

}  // namespace lamella::layer_norm::device
