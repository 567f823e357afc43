// Loops over flat arrays: one pass over memory, four elements a thread where 16-byte accesses may
// be made.
#pragma once

#include <cstdint>

#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"

namespace lamella::device {

// Neighbouring elements in registers: four, or one.
template <int width>
struct Elements {
  float v[width];
};

template <int width>
__device__ Elements<width> load_elements(const float* p, std::int64_t i) {
  if constexpr (width == 4) {
    const float4 q = *reinterpret_cast<const float4*>(p + i);
    return {{q.x, q.y, q.z, q.w}};
  } else {
    return {{p[i]}};
  }
}

template <int width>
__device__ void store_elements(float* p, std::int64_t i, const Elements<width>& e) {
  if constexpr (width == 4) {
    *reinterpret_cast<float4*>(p + i) = make_float4(e.v[0], e.v[1], e.v[2], e.v[3]);
  } else {
    p[i] = e.v[0];
  }
}

constexpr int flat_threads = 256;

// body.at<width>(i): the elements [i, i + width).
template <class Body>
__global__ void __launch_bounds__(flat_threads)
    each_element(const Body body, std::int64_t size, std::int64_t vectors) {
  for (std::int64_t i = grid_thread(); i < vectors; i += grid_threads()) {
    body.template at<4>(4 * i);
  }
  for (std::int64_t i = 4 * vectors + grid_thread(); i < size; i += grid_threads()) {
    body.template at<1>(i);
  }
}

// `aligned`: whether all arrays begin at multiples of 16 bytes.
template <class Body>
void launch_flat(const char* op, const Body& body, std::int64_t size, bool aligned) {
  const std::int64_t vectors = aligned ? size / 4 : 0;
  const std::int64_t items = aligned ? vectors + size % 4 : size;
  const std::int64_t blocks = ceil_div<std::int64_t>(items, flat_threads);
  constexpr std::int64_t most = 1 << 30;
  launch(op, {dim3(static_cast<unsigned>(smaller(blocks, most))), dim3(flat_threads)},
         each_element<Body>, body, size, vectors);
}

}  // namespace lamella::device
