#include "ops/feed_forward/feed_forward.h"

#include "simd/pointwise.h"

namespace lamella::LAMELLA_ISA {
namespace {

void gate(std::int64_t size, const float* a, const float* g, float* h) {
  parallel_vectors(size, [&](auto at) { at.put(h, at.get(a) * at.get(g)); });
}

void gate_backward(std::int64_t size, const float* dh, const float* a, const float* g, float* da,
                   float* dg) {
  parallel_vectors(size, [&](auto at) {
    const Float d = at.get(dh);
    at.put(dg, d * at.get(a));
    at.put(da, d * at.get(g));
  });
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::feed_forward::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::gate, kernel::gate_backward};

}  // namespace lamella::feed_forward::LAMELLA_ISA
