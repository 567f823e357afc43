// What of the feed-forward network is not dense or an activation. Bound by memory.
#include "cuda/kernel.cuh"
#include "cuda/pointwise.cuh"
#include "ops/feed_forward/feed_forward.h"

namespace lamella::LAMELLA_ISA {
namespace {

constexpr const char* op = "feed_forward";

struct Gate {
  const float* a;
  const float* g;
  float* h;

  template <int width>
  __device__ void run(std::int64_t i) const {
    float x[width];
    float y[width];
    load(a + i, x);
    load(g + i, y);
#pragma unroll
    for (int j = 0; j < width; ++j) x[j] *= y[j];
    store(h + i, x);
  }
};

struct GateBackward {
  const float* dh;
  const float* a;
  const float* g;
  float* da;
  float* dg;

  template <int width>
  __device__ void run(std::int64_t i) const {
    float d[width];
    float x[width];
    float y[width];
    load(dh + i, d);
    load(a + i, x);
    load(g + i, y);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      x[j] *= d[j];
      y[j] *= d[j];
    }
    store(dg + i, x);
    store(da + i, y);
  }
};

void gate(std::int64_t size, const float* a, const float* g, float* h) {
  pointwise(op, size, aligned_for_vectors(a, g, h), Gate{a, g, h});
}

void gate_backward(std::int64_t size, const float* dh, const float* a, const float* g, float* da,
                   float* dg) {
  pointwise(op, size, aligned_for_vectors(dh, a, g, da, dg), GateBackward{dh, a, g, da, dg});
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::feed_forward::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::gate, kernel::gate_backward};

}  // namespace lamella::feed_forward::LAMELLA_ISA
