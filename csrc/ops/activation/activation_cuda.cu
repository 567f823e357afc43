// The standalone activations. Bound by memory: 8 bytes an element forward, 12 backward.
#include "cuda/kernel.cuh"
#include "cuda/math.cuh"
#include "cuda/pointwise.cuh"
#include "ops/activation/activation.h"

namespace lamella::LAMELLA_ISA {
namespace {

constexpr const char* op = "activation";

template <Kind kind>
struct Forward {
  const float* x;
  float* y;
  float parameter;

  template <int width>
  __device__ void run(std::int64_t i) const {
    float v[width];
    load(x + i, v);
#pragma unroll
    for (int j = 0; j < width; ++j) v[j] = activate<kind>(v[j], parameter);
    store(y + i, v);
  }
};

template <Kind kind, bool from_input>
struct Backward {
  const float* dy;
  const float* saved;
  float* dx;
  float parameter;

  template <int width>
  __device__ void run(std::int64_t i) const {
    float d[width];
    float v[width];
    load(dy + i, d);
    load(saved + i, v);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      d[j] = from_input ? gradient_from_input<kind>(d[j], v[j], parameter)
                        : gradient_from_saved<kind>(d[j], v[j], parameter);
    }
    store(dx + i, d);
  }
};

void forward(Activation f, std::int64_t size, const float* x, float* y) {
  with_kind(f.kind, [&](auto tag) {
    constexpr Kind kind = decltype(tag)::kind;
    pointwise(op, size, aligned_for_vectors(x, y), Forward<kind>{x, y, f.parameter});
  });
}

template <bool from_input>
void any_backward(Activation f, std::int64_t size, const float* dy, const float* saved, float* dx) {
  with_kind(f.kind, [&](auto tag) {
    constexpr Kind kind = decltype(tag)::kind;
    // The two differ where the derivative follows from the output only.
    constexpr bool differs =
        kind == Kind::elu || kind == Kind::sigmoid || kind == Kind::tanh || kind == Kind::softplus;
    pointwise(op, size, aligned_for_vectors(dy, saved, dx), Backward < kind,
              from_input || !differs > {dy, saved, dx, f.parameter});
  });
}

void backward(Activation f, std::int64_t size, const float* dy, const float* x, float* dx) {
  any_backward<true>(f, size, dy, x, dx);
}

void backward_fused(Activation f, std::int64_t size, const float* dy, const float* saved,
                    float* dx) {
  any_backward<false>(f, size, dy, saved, dx);
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::activation::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::forward, kernel::backward, kernel::backward_fused};

}  // namespace lamella::activation::LAMELLA_ISA
