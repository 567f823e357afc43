// One pass over arrays of one length. Bound by memory: 16 bytes an access where the arrays are
// aligned to that.
#pragma once

#include "cuda/launch.cuh"

namespace lamella::device {

// Neighbouring floats, in one access; p is aligned to them. Not through the read-only cache: the
// arrays of an element-wise kernel may be one and the same.
template <int width>
__device__ inline void load(const float* p, float (&values)[width]) {
  static_assert(width == 1 || width == 4);
  if constexpr (width == 4) {
    const float4 v = *reinterpret_cast<const float4*>(p);
    values[0] = v.x;
    values[1] = v.y;
    values[2] = v.z;
    values[3] = v.w;
  } else {
    values[0] = *p;
  }
}

template <int width>
__device__ inline void store(float* p, const float (&values)[width]) {
  static_assert(width == 1 || width == 4);
  if constexpr (width == 4) {
    *reinterpret_cast<float4*>(p) = make_float4(values[0], values[1], values[2], values[3]);
  } else {
    *p = values[0];
  }
}

// Neighbouring elements as a value: four, or one.
template <int width>
struct Elements {
  float v[width];
};

template <int width>
__device__ inline Elements<width> load_elements(const float* p, std::int64_t i) {
  Elements<width> e;
  load(p + i, e.v);
  return e;
}

template <int width>
__device__ inline void store_elements(float* p, std::int64_t i, const Elements<width>& e) {
  store(p + i, e.v);
}

// Whether 16-byte accesses may begin at all of these addresses; null ones do not count.
template <class... Pointer>
bool aligned_for_vectors(const Pointer*... pointers) {
  return ((reinterpret_cast<std::uintptr_t>(pointers) % 16 == 0) && ...);
}

// body.run<width>(i): the elements i .. i + width.
template <int width, class Body>
__global__ void __launch_bounds__(256) pointwise_kernel(const std::int64_t size, const Body body) {
  const std::int64_t vectors = size / width;
  for (std::int64_t i = grid_thread(); i < vectors; i += grid_threads()) {
    body.template run<width>(i * width);
  }
  if (width > 1 && grid_thread() < size % width) {
    body.template run<1>(vectors * width + grid_thread());
  }
}

template <class Body>
void pointwise(const char* op, std::int64_t size, bool vectors, const Body& body) {
  if (size == 0) return;
  const Launch shape = elements(size, 4);
  if (vectors) {
    launch(op, shape, pointwise_kernel<4, Body>, size, body);
  } else {
    launch(op, shape, pointwise_kernel<1, Body>, size, body);
  }
}

}  // namespace lamella::device
