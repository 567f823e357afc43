// The standalone activations: one pass over memory, cut into chunks that fit L1.
#include "ops/activation/activation_simd.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {
namespace {

constexpr std::int64_t chunk = 16384;

void forward(Activation f, std::int64_t size, const float* x, float* y) {
  with_kind(f.kind, [&](auto tag) {
    constexpr Kind kind = decltype(tag)::kind;
    const Float parameter = set(f.parameter);
    parallel_chunks(size, chunk, [&](std::int64_t begin, std::int64_t end) {
      std::int64_t i = begin;
      for (; i + Float::width <= end; i += Float::width) {
        store(y + i, activate<kind>(load(x + i), parameter));
      }
      if (i < end) store_n(y + i, activate<kind>(load_n(x + i, end - i), parameter), end - i);
    });
  });
}

// gradient(dy, saved) per vector.
template <class Gradient>
void backward_with(std::int64_t size, const float* dy, const float* saved, float* dx,
                   const Gradient& gradient) {
  parallel_chunks(size, chunk, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t i = begin;
    for (; i + Float::width <= end; i += Float::width) {
      store(dx + i, gradient(load(dy + i), load(saved + i)));
    }
    if (i < end) {
      store_n(dx + i, gradient(load_n(dy + i, end - i), load_n(saved + i, end - i)), end - i);
    }
  });
}

void backward(Activation f, std::int64_t size, const float* dy, const float* x, float* dx) {
  with_kind(f.kind, [&](auto tag) {
    const Float parameter = set(f.parameter);
    backward_with(size, dy, x, dx, [&](Float g, Float v) {
      return gradient_from_input<decltype(tag)::kind>(g, v, parameter);
    });
  });
}

void backward_fused(Activation f, std::int64_t size, const float* dy, const float* saved,
                    float* dx) {
  with_kind(f.kind, [&](auto tag) {
    const Float parameter = set(f.parameter);
    backward_with(size, dy, saved, dx, [&](Float g, Float v) {
      return gradient_from_saved<decltype(tag)::kind>(g, v, parameter);
    });
  });
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::activation::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::forward, kernel::backward, kernel::backward_fused};

}  // namespace lamella::activation::LAMELLA_ISA
