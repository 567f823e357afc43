// max_pool2d on the device.
#include "ops/pool2d/pool2d_cuda_backward.cuh"
#include "ops/pool2d/pool2d_cuda_forward.cuh"

namespace lamella::device {
namespace {

constexpr const char* op = "max_pool2d";

Winner winner_kind(const PoolGeometry& g) {
  return max_pool2d::winner_bytes(g) == 1 ? Winner::tap : Winner::position;
}

// Of four channels; `a` and `b` as floats, winners as they are kept.
bool vectorizes(const PoolGeometry& g, const float* a, const float* b, const std::uint8_t* winner) {
  return g.channels % 4 == 0 && is_aligned(a, 16) && is_aligned(b, 16) &&
         is_aligned(winner, winner_kind(g) == Winner::tap ? 4 : 16);
}

template <Winner kind>
struct Forward {
  template <int V>
  using Gathered = Maximum<kind, V>;

  static void run(const PoolGeometry& g, const float* x, float* y, std::uint8_t* winner) {
    if (vectorizes(g, x, y, winner)) {
      return pool_forward<Gathered, 4>(op, g, false, x, y, winner);
    }
    pool_forward<Gathered, 1>(op, g, false, x, y, winner);
  }
};

void forward(const PoolGeometry& g, const float* x, float* y, std::uint8_t* winner) {
  if (winner == nullptr) return Forward<Winner::none>::run(g, x, y, winner);
  if (winner_kind(g) == Winner::tap) return Forward<Winner::tap>::run(g, x, y, winner);
  Forward<Winner::position>::run(g, x, y, winner);
}

template <Winner kind>
void run_backward(const PoolGeometry& g, const float* dy, const std::uint8_t* winner, float* dx) {
  if (vectorizes(g, dy, dx, winner)) {
    const MaximumSource<kind, 4> source{dy, winner};
    return pool_backward(op, g, false, source, dx);
  }
  pool_backward(op, g, false, MaximumSource<kind, 1>{dy, winner}, dx);
}

void backward(const PoolGeometry& g, const float* dy, const std::uint8_t* winner, float* dx) {
  if (winner_kind(g) == Winner::tap) return run_backward<Winner::tap>(g, dy, winner, dx);
  run_backward<Winner::position>(g, dy, winner, dx);
}

}  // namespace
}  // namespace lamella::device

namespace lamella::max_pool2d::device {

extern const Kernels kernels = {lamella::device::forward, lamella::device::backward};

}  // namespace lamella::max_pool2d::device
