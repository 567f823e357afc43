// avg_pool2d and global_avg_pool2d on the device.
#include "ops/pool2d/pool2d_cuda_backward.cuh"
#include "ops/pool2d/pool2d_cuda_forward.cuh"

namespace lamella::device {
namespace {

bool vectorizes(std::int64_t channels, const float* a, const float* b) {
  return channels % 4 == 0 && is_aligned(a, 16) && is_aligned(b, 16);
}

void run_forward(const char* op, const PoolGeometry& g, bool count_include_pad, const float* x,
                 float* y) {
  if (vectorizes(g.channels, x, y)) {
    return pool_forward<Average, 4>(op, g, count_include_pad, x, y, nullptr);
  }
  pool_forward<Average, 1>(op, g, count_include_pad, x, y, nullptr);
}

void forward(const PoolGeometry& g, bool count_include_pad, const float* x, float* y) {
  run_forward("avg_pool2d", g, count_include_pad, x, y);
}

void backward(const PoolGeometry& g, bool count_include_pad, const float* dy, float* dx) {
  if (vectorizes(g.channels, dy, dx)) {
    return pool_backward("avg_pool2d", g, count_include_pad, AverageSource<4>{dy}, dx);
  }
  pool_backward("avg_pool2d", g, count_include_pad, AverageSource<1>{dy}, dx);
}

// The images as one row each, and one window over all of it.
void global_forward(std::int64_t batch, std::int64_t positions, std::int64_t channels,
                    const float* x, float* y) {
  const PoolGeometry g = {
      batch, channels, {1, 1, 1, 1, 0, 0, 1}, {positions, positions, 1, 1, 0, 0, 1}};
  run_forward("global_avg_pool2d", g, false, x, y);
}

// Bytes decide: dx is written.
template <int V>
__global__ void __launch_bounds__(256)
    spread(RowGrid grid, std::int64_t channels, float share, const float* __restrict__ dy,
           float* __restrict__ dx) {
  grid.for_each([&](std::int64_t n) {
    float* const image = dx + n * grid.row_vectors * V;
    return [=](std::int64_t position, std::int64_t vector) {
      float gradient[V];
      load_channels(dy + n * channels + vector * V, gradient);
      for (int i = 0; i < V; ++i) gradient[i] *= share;
      store_channels(image + position * channels + vector * V, gradient);
    };
  });
}

void global_backward(std::int64_t batch, std::int64_t positions, std::int64_t channels,
                     const float* dy, float* dx) {
  if (batch * channels == 0) return;
  const float share = 1.0f / static_cast<float>(positions);
  const auto run = [&](int vector, auto kernel) {
    const RowGrid grid(batch, 1, positions, channels / vector);
    launch("global_avg_pool2d", grid.launch(), kernel, grid, channels, share, dy, dx);
  };
  if (vectorizes(channels, dy, dx)) return run(4, spread<4>);
  run(1, spread<1>);
}

}  // namespace
}  // namespace lamella::device

namespace lamella::avg_pool2d::device {

extern const Kernels kernels = {lamella::device::forward, lamella::device::backward,
                                lamella::device::global_forward, lamella::device::global_backward};

}  // namespace lamella::avg_pool2d::device
