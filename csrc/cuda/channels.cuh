// Images as rows of vectors of channels: how kernels that work channel by channel (pooling,
// depthwise convolution) read them, and how the rows lie over threads.
#pragma once

#include "cuda/divide.cuh"
#include "cuda/launch.cuh"

namespace lamella::device {

inline bool is_aligned(const void* pointer, std::uintptr_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

template <int V>
__device__ void load_channels(const float* from, float (&to)[V]) {
  if constexpr (V == 4) {
    const float4 v = __ldg(reinterpret_cast<const float4*>(from));
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  } else {
    for (int i = 0; i < V; ++i) to[i] = __ldg(from + i);
  }
}

template <int V>
__device__ void store_channels(float* to, const float (&from)[V]) {
  if constexpr (V == 4) {
    *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
  } else {
    for (int i = 0; i < V; ++i) to[i] = from[i];
  }
}

// Rows of vectors of channels (the rows of an image, of all images) over blocks of threads.
struct RowGrid {
  std::int64_t rows;
  std::int64_t row_vectors;  // pixels of a row * vectors of a pixel
  Divisor rows_of_image;
  Divisor pixel_vectors;

  RowGrid(std::int64_t batch, std::int64_t height, std::int64_t width, std::int64_t vectors)
      : rows(batch * height),
        row_vectors(width * vectors),
        rows_of_image(larger<std::int64_t>(height, 1)),
        pixel_vectors(larger<std::int64_t>(vectors, 1)) {}

  Launch launch() const {
    constexpr int threads = 256;
    int across = 1;
    while (across < threads && across < row_vectors) across *= 2;
    const int down = threads / across;
    const std::int64_t blocks = smaller<std::int64_t>(ceil_div<std::int64_t>(rows, down), 1 << 30);
    const std::int64_t columns =
        smaller<std::int64_t>(ceil_div<std::int64_t>(row_vectors, across), 65535);
    return {dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(columns)),
            dim3(static_cast<unsigned>(across), static_cast<unsigned>(down))};
  }

  // row_body(row) for this thread's rows, where it returns element_body(pixel, vector).
  template <class RowBody>
  __device__ void for_each(const RowBody& row_body) const {
    const std::int64_t row_step = static_cast<std::int64_t>(gridDim.x) * blockDim.y;
    const std::int64_t column_step = static_cast<std::int64_t>(gridDim.y) * blockDim.x;
    for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
         row < rows; row += row_step) {
      const auto body = row_body(row);
      for (std::int64_t e = static_cast<std::int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
           e < row_vectors; e += column_step) {
        const std::int64_t pixel = pixel_vectors.divide(e);
        body(pixel, e - pixel * pixel_vectors.value());
      }
    }
  }
};

}  // namespace lamella::device
