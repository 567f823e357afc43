// Pooling forward, of maxima and averages: a thread for each output pixel's vector of channels
// where there are many, a block for each pixel (or several) where windows are large and few.
#pragma once

#include "ops/pool2d/pool2d_cuda.cuh"

namespace lamella::device {

// x is read from memory once (windows that overlap find it in L1 and L2), y written once: bytes
// decide. KH x KW: the window's size where it is known, so that all loads of a window that lies
// inside the image are in flight before the first is used; 0 x 0 for any.
template <class Gathered, int KH, int KW>
__global__ void __launch_bounds__(256, 2)
    pool_pixels(Pool p, RowGrid grid, const float* __restrict__ x, float* __restrict__ y,
                std::uint8_t* __restrict__ winner) {
  constexpr int V = Gathered::vector;
  const std::int64_t row_step = p.height.step * p.width.window.input * p.channels;
  const std::int64_t column_step = p.width.step * p.channels;
  grid.for_each([&](std::int64_t row) {
    const std::int64_t n = grid.rows_of_image.divide(row);
    const std::int64_t oh = row - n * p.height.window.output;
    const Interval rows = p.height.taps_inside(oh);
    const float* const image = x + n * p.height.window.input * p.width.window.input * p.channels;
    return [=](std::int64_t ow, std::int64_t vector) {
      const Taps taps(p, oh, rows, ow);
      const std::int64_t first = taps.row * p.width.window.input + taps.column;
      const float* const from = image + first * p.channels + vector * V;
      Gathered gathered;
      gathered.clear();
      if (KH > 0 && taps.rows.size() == KH && taps.columns.size() == KW) {
        float values[KH * KW + 1][V];
#pragma unroll
        for (int i = 0; i < KH * KW; ++i) {
          load_channels(from + i / larger(KW, 1) * row_step + i % larger(KW, 1) * column_step,
                        values[i]);
        }
#pragma unroll
        for (int i = 0; i < KH * KW; ++i) gathered.add(values[i], i);
      } else {
        const int across = static_cast<int>(taps.columns.size());
        const int down = static_cast<int>(taps.rows.size());
        int number = 0;
        for (int i = 0; i < down; ++i) {
          const float* const line = from + i * row_step;
#pragma unroll 4
          for (int j = 0; j < across; ++j, ++number) {
            float values[V];
            load_channels(line + j * column_step, values);
            gathered.add(values, number);
          }
        }
      }
      const std::int64_t pixel = row * p.width.window.output + ow;
      gathered.finish(p, taps, oh, ow, pixel * p.channels + vector * V, y, winner);
    };
  });
}

// What a window's part gave, for all outputs: (splits, pixels, channels).
struct Partial {
  float* value;
  int* number;
};

// Blocks of `lanes` vectors of channels times slices of a window's taps. A window is cut into
// `splits` parts, each a block's, where there are too few windows to fill the device.
struct WideGrid {
  static constexpr int threads = 256;
  int lanes;
  int splits;
  std::int64_t pixels;
  Divisor channel_blocks;
  Divisor image_pixels;
  Divisor row_pixels;
  std::int64_t blocks;

  WideGrid(const PoolGeometry& g, int vector)
      : lanes(1),
        splits(1),
        pixels(g.batch * g.height.output * g.width.output),
        image_pixels(larger<std::int64_t>(g.height.output * g.width.output, 1)),
        row_pixels(larger<std::int64_t>(g.width.output, 1)) {
    const std::int64_t vectors = g.channels / vector;
    while (lanes < 32 && lanes < vectors) lanes *= 2;
    const std::int64_t across = larger<std::int64_t>(ceil_div<std::int64_t>(vectors, lanes), 1);
    channel_blocks = Divisor(across);
    const std::int64_t taps =
        smaller(g.height.kernel, g.height.input) * smaller(g.width.kernel, g.width.input);
    // At least 16 taps a thread.
    const std::int64_t most = larger<std::int64_t>(taps / (threads / lanes * 16), 1);
    const std::int64_t wanted = std::int64_t{properties().multiprocessors} * 4;
    blocks = pixels * across;
    while (splits * 2 <= most && splits < 256 && blocks * splits < wanted) splits *= 2;
    blocks *= splits;
  }
};

// Bytes decide: x is read once. The slices' results meet in shared memory, always in one order.
template <class Gathered>
__global__ void __launch_bounds__(WideGrid::threads, 2)
    pool_windows(Pool p, WideGrid grid, const float* __restrict__ x, float* __restrict__ y,
                 std::uint8_t* __restrict__ winner, Partial partial) {
  constexpr int V = Gathered::vector;
  __shared__ Gathered shared[WideGrid::threads];
  const int lane = static_cast<int>(threadIdx.x) % grid.lanes;
  const int slice = static_cast<int>(threadIdx.x) / grid.lanes;
  const int slices = WideGrid::threads / grid.lanes;
  for (std::int64_t block = blockIdx.x; block < grid.blocks; block += gridDim.x) {
    const std::int64_t work = block / grid.splits;
    const int split = static_cast<int>(block - work * grid.splits);
    const std::int64_t pixel = grid.channel_blocks.divide(work);
    const std::int64_t channel_block = work - pixel * grid.channel_blocks.value();
    const std::int64_t channel = (channel_block * grid.lanes + lane) * V;
    const std::int64_t n = grid.image_pixels.divide(pixel);
    const std::int64_t inner = pixel - n * grid.image_pixels.value();
    const std::int64_t oh = grid.row_pixels.divide(inner);
    const std::int64_t ow = inner - oh * grid.row_pixels.value();
    const Taps taps(p, oh, ow);
    const std::int64_t count = taps.count();
    const bool works = channel < p.channels;
    Gathered gathered;
    gathered.clear();
    if (works && count > 0) {
      const std::int64_t begin = count * split / grid.splits + slice;
      const std::int64_t end = count * (split + 1) / grid.splits;
      const std::int64_t across = taps.columns.size();
      const std::int64_t row_step = p.height.step * p.width.window.input * p.channels;
      const std::int64_t column_step = p.width.step * p.channels;
      const float* const from =
          x +
          ((n * p.height.window.input + taps.row) * p.width.window.input + taps.column) *
              p.channels +
          channel;
      const std::int64_t down_a_step = slices / across;
      const std::int64_t right_a_step = slices - down_a_step * across;
      std::int64_t down = begin / across;
      std::int64_t right = begin - down * across;
#pragma unroll 4
      for (std::int64_t t = begin; t < end; t += slices) {
        float values[V];
        load_channels(from + down * row_step + right * column_step, values);
        gathered.add(values, static_cast<int>(t));
        down += down_a_step;
        right += right_a_step;
        if (right >= across) {
          right -= across;
          ++down;
        }
      }
    }
    shared[threadIdx.x] = gathered;
    __syncthreads();
    for (int half = slices / 2; half > 0; half /= 2) {
      if (slice < half) {
        gathered.merge(shared[static_cast<int>(threadIdx.x) + half * grid.lanes]);
        shared[threadIdx.x] = gathered;
      }
      __syncthreads();
    }
    if (slice != 0 || !works) continue;
    if (grid.splits == 1) {
      gathered.finish(p, taps, oh, ow, pixel * p.channels + channel, y, winner);
      continue;
    }
    const std::int64_t at = (split * grid.pixels + pixel) * p.channels + channel;
    store_channels(partial.value + at, gathered.value);
    if constexpr (Gathered::numbered) {
      for (int i = 0; i < V; ++i) partial.number[at + i] = gathered.number[i];
    }
  }
}

// The parts of each output in their order. Small beside the pass before it.
template <class Gathered>
__global__ void __launch_bounds__(256)
    pool_parts(Pool p, WideGrid grid, Partial partial, float* __restrict__ y,
               std::uint8_t* __restrict__ winner) {
  static_assert(Gathered::vector == 1);
  const std::int64_t size = grid.pixels * p.channels;
  for (std::int64_t i = grid_thread(); i < size; i += grid_threads()) {
    Gathered gathered;
    gathered.clear();
    for (int split = 0; split < grid.splits; ++split) {
      Gathered part;
      part.value[0] = partial.value[split * size + i];
      if constexpr (Gathered::numbered) part.number[0] = partial.number[split * size + i];
      gathered.merge(part);
    }
    const std::int64_t pixel = i / p.channels;
    const std::int64_t inner = pixel % grid.image_pixels.value();
    const std::int64_t oh = inner / grid.row_pixels.value();
    const std::int64_t ow = inner - oh * grid.row_pixels.value();
    gathered.finish(p, Taps(p, oh, ow), oh, ow, i, y, winner);
  }
}

// Whether a block is to share a window: where a thread a vector would leave the device idle.
inline bool is_wide(const PoolGeometry& g, int vector) {
  const std::int64_t taps =
      smaller(g.height.kernel, g.height.input) * smaller(g.width.kernel, g.width.input);
  const std::int64_t threads = g.batch * g.height.output * g.width.output * (g.channels / vector);
  return taps >= 32 && threads < std::int64_t{properties().multiprocessors} * 1024;
}

// Gathered<V> for V = 1, 4.
template <template <int> class Gathered, int V>
void pool_forward(const char* op, const PoolGeometry& g, bool count_include_pad, const float* x,
                  float* y, std::uint8_t* winner) {
  using Vector = Gathered<V>;
  const Pool pool(g, count_include_pad);
  if (g.batch * g.channels == 0) return;
  if (is_wide(g, V)) {
    const WideGrid grid(g, V);
    const std::int64_t parts = grid.splits > 1 ? grid.splits * grid.pixels * g.channels : 0;
    const Scratch<float> values(op, parts);
    const Scratch<int> numbers(op, Vector::numbered ? parts : 0);
    const Partial partial{values.get(), numbers.get()};
    const auto blocks = static_cast<unsigned>(smaller<std::int64_t>(grid.blocks, 1 << 30));
    launch(op, {dim3(blocks), dim3(WideGrid::threads)}, pool_windows<Vector>, pool, grid, x, y,
           winner, partial);
    if (grid.splits == 1) return;
    return launch(op, elements(grid.pixels * g.channels, 1), pool_parts<Gathered<1>>, pool, grid,
                  partial, y, winner);
  }
  const RowGrid grid(g.batch, g.height.output, g.width.output, g.channels / V);
  const auto run = [&](auto kernel) {
    launch(op, grid.launch(), kernel, pool, grid, x, y, winner);
  };
  if (g.height.kernel == 2 && g.width.kernel == 2) return run(pool_pixels<Vector, 2, 2>);
  if (g.height.kernel == 3 && g.width.kernel == 3) return run(pool_pixels<Vector, 3, 3>);
  run(pool_pixels<Vector, 0, 0>);
}

}  // namespace lamella::device
