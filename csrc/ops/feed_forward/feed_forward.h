// The position-wise feed-forward network of a Transformer: two dense layers, the first perhaps
// gated by a third (Shazeer 2020, "GLU variants improve Transformer": silu makes it SwiGLU).
//
//   a = f(x W + b)      (rows, F)           g = x Wg + bg   (rows, F), where there is a gate
//   h = a g, or a                           y = h Wo + bo   (rows, Dout)
//
// Backward, with dh = dy Wo^T: dg = dh a; dz = (dh g) f'; dx = dz W^T + dg Wg^T, and each kernel
// its input's transpose times its output's gradient. Forward saves a, or z = x W + b where f' needs
// it, and with a gate g and h.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace lamella::feed_forward {

// What is not dense or an activation; arrays of `size` elements.
struct Kernels {
  // h = a g
  void (*gate)(std::int64_t size, const float* a, const float* g, float* h);
  // da = dh g, dg = dh a; da may be dh
  void (*gate_backward)(std::int64_t size, const float* dh, const float* a, const float* g,
                        float* da, float* dg);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::feed_forward
