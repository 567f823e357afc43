// Arrays (images, rows, channels) whose channels are normalized over the rows: the statistics of
// each channel of an image, the sums of its gradients, and the passes that write results. Shared by
// batch_norm, where all rows are one image, and group_norm.
//
// What limits all of this is memory. A block's threads lie across neighbouring channels, so that
// accesses are whole lines, and down a chunk of rows. A thread's columns are the same in all of its
// rows. Chunks are summed around a center of their own and combined in double, in order.
#pragma once

#include <cstdint>

#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "cuda/pointwise.cuh"

namespace lamella::device {

constexpr int channel_threads = 256;
// Rows a thread reads at a time.
template <int width>
constexpr int channel_turn = width == 4 ? 4 : 8;

struct ChannelTile {
  std::int64_t images;
  std::int64_t rows;
  std::int64_t channels;
  int across;           // threads side by side, each with `width` channels
  int down;             // threads one below the other
  std::int64_t groups;  // blocks side by side
  std::int64_t each;    // rows of a chunk
  std::int64_t chunks;  // of an image

  Launch launch() const {
    return {dim3(static_cast<unsigned>(images * chunks * groups)), dim3(channel_threads)};
  }
};

// Rows of a thread, at least: of one that leaves sums these are little beside what it reads.
constexpr std::int64_t summed_rows = 16;
constexpr std::int64_t written_rows = 8;

// Blocks enough that one image fills the device, if each thread has `least` rows. How an image is
// cut does not depend on how many there are, and so neither do its sums.
inline ChannelTile channel_tile(std::int64_t images, std::int64_t rows, std::int64_t channels,
                                int width, std::int64_t least) {
  constexpr std::int64_t most_across = 64;
  const std::int64_t units = channels / width;
  ChannelTile tile = {images, rows, channels, 0, 0, ceil_div(units, most_across), 0, 0};
  tile.across = static_cast<int>(ceil_div(units, tile.groups));
  tile.down = channel_threads / tile.across;
  const std::int64_t wanted =
      ceil_div<std::int64_t>(std::int64_t{properties().multiprocessors} * 32, tile.groups);
  const std::int64_t most = larger<std::int64_t>(1, rows / (least * tile.down));
  tile.each = larger<std::int64_t>(1, ceil_div(rows, smaller(wanted, most)));
  tile.chunks = ceil_div(rows, tile.each);
  return tile;
}

// The channels and rows of this thread.
template <int width>
struct ChannelPlace {
  std::int64_t image;
  std::int64_t chunk;
  std::int64_t channel;  // the first
  std::int64_t begin;    // of its rows, which are `tile.down` apart; no row where it has no channel
  std::int64_t end;
  std::int64_t first;   // element of row `begin`
  std::int64_t stride;  // from one of its rows to the next
  int column;           // of the block
  int share;            // of the rows

  __device__ explicit ChannelPlace(const ChannelTile& tile) {
    const std::int64_t group = blockIdx.x % tile.groups;
    const std::int64_t rest = blockIdx.x / tile.groups;
    chunk = rest % tile.chunks;
    image = rest / tile.chunks;
    const int thread = static_cast<int>(threadIdx.x);
    column = thread % tile.across;
    share = thread / tile.across;
    channel = (group * tile.across + column) * width;
    begin = chunk * tile.each + share;
    end = smaller(tile.rows, (chunk + 1) * tile.each);
    if (share >= tile.down || channel >= tile.channels) end = begin;
    first = (image * tile.rows + begin) * tile.channels + channel;
    stride = tile.down * tile.channels;
  }
  __device__ std::int64_t row_count(const ChannelTile& tile) const {
    return end <= begin ? 0 : ceil_div<std::int64_t>(end - begin, tile.down);
  }
  __device__ bool is_first_share(const ChannelTile& tile) const {
    return share == 0 && channel < tile.channels;
  }
};

// body(turn, rows) for the rows of a thread, channel_turn<width> at a time: `rows` of them from
// element `turn` on.
template <int width, class Body>
__device__ void each_turn(const ChannelPlace<width>& place, std::int64_t count, const Body& body) {
  std::int64_t at = place.first;
  for (std::int64_t done = 0; done < count; done += channel_turn<width>) {
    body(at, static_cast<int>(smaller<std::int64_t>(count - done, channel_turn<width>)));
    at += channel_turn<width> * place.stride;
  }
}

// The rows of one turn; 0 behind the last.
template <int width>
__device__ void load_turn(const float* x, std::int64_t at, std::int64_t stride, int rows,
                          float (&v)[channel_turn<width>][width]) {
#pragma unroll
  for (int k = 0; k < channel_turn<width>; ++k) {
    Elements<width> e = {};
    if (k < rows) e = load_elements<width>(x, at + k * stride);
#pragma unroll
    for (int w = 0; w < width; ++w) v[k][w] = e.v[w];
  }
}

// Of one channel and some rows: a center near the mean, and the sums of the distances from it and
// of their squares.
struct ChannelMoments {
  double sum;
  double squares;
  float center;
  float count;  // of rows, at most 2^24 a block

  // sum (x - c)^2 = sum ((x - center) + (center - c))^2
  __device__ void add(const ChannelMoments& other) {
    if (other.count == 0.0f) return;
    if (count == 0.0f) {
      *this = other;
      return;
    }
    const double n = static_cast<double>(other.count);
    const double shift = static_cast<double>(other.center) - static_cast<double>(center);
    squares += other.squares + shift * (2.0 * other.sum + n * shift);
    sum += other.sum + n * shift;
    count += other.count;
    // The distances from an infinite center are NaN, but the mean is infinite.
    if (!(shift - shift == 0.0)) center += other.center;
  }
};

// The shares of a block added in a fixed order, `value` of all of them into that of share 0.
template <int width, class T>
__device__ void add_shares(const ChannelTile& tile, const ChannelPlace<width>& place,
                           T (&own)[width], T* shared) {
  // One of a thread's columns after the other: shared memory is for channel_threads values.
  int top = 1;
  while (top < tile.down) top *= 2;
#pragma unroll
  for (int w = 0; w < width; ++w) {
    __syncthreads();
    shared[threadIdx.x] = own[w];
    for (int half = top / 2; half > 0; half /= 2) {
      __syncthreads();
      if (place.share < half && place.share + half < tile.down) {
        T sum = shared[threadIdx.x];
        sum.add(shared[static_cast<int>(threadIdx.x) + half * tile.across]);
        shared[threadIdx.x] = sum;
      }
    }
    own[w] = shared[threadIdx.x];
  }
}

// What a chunk leaves of each of its channels: as ChannelMoments, around its own mean rounded.
struct ChunkMoments {
  float center;
  float sum;
  float squares;
};

// moments (images, chunks, channels)
template <int width>
__global__ void __launch_bounds__(channel_threads)
    measure_channels(const ChannelTile tile, const float* x, ChunkMoments* moments) {
  __shared__ __align__(8) unsigned char memory[channel_threads * sizeof(ChannelMoments)];
  const ChannelPlace<width> place(tile);
  const std::int64_t count = place.row_count(tile);
  float center[width] = {}, sum[width] = {}, squares[width] = {};
  bool is_first = true;
  each_turn(place, count, [&](std::int64_t at, int rows) {
    float v[channel_turn<width>][width];
    load_turn<width>(x, at, place.stride, rows, v);
#pragma unroll
    for (int w = 0; w < width; ++w) {
      if (is_first) {
        float total = 0.0f;
#pragma unroll
        for (int k = 0; k < channel_turn<width>; ++k) total += v[k][w];
        center[w] = total / static_cast<float>(rows);
      }
#pragma unroll
      for (int k = 0; k < channel_turn<width>; ++k) {
        const float d = k < rows ? v[k][w] - center[w] : 0.0f;
        sum[w] += d;
        squares[w] = fmaf(d, d, squares[w]);
      }
    }
    is_first = false;
  });
  ChannelMoments own[width];
#pragma unroll
  for (int w = 0; w < width; ++w) {
    own[w] = {static_cast<double>(sum[w]), static_cast<double>(squares[w]), center[w],
              static_cast<float>(count)};
  }
  add_shares(tile, place, own, reinterpret_cast<ChannelMoments*>(memory));
  if (!place.is_first_share(tile)) return;
  ChunkMoments* const out =
      moments + (place.image * tile.chunks + place.chunk) * tile.channels + place.channel;
#pragma unroll
  for (int w = 0; w < width; ++w) {
    const double n = static_cast<double>(own[w].count);
    const double distance = own[w].sum / n;
    const double mean = static_cast<double>(own[w].center) + distance;
    const float rounded = static_cast<float>(mean);
    // From the center to the rounded mean, and from there to the mean.
    const double rest = mean - static_cast<double>(rounded);
    out[w] = {own[w].center - own[w].center == 0.0f ? rounded : own[w].center,
              static_cast<float>(n * rest),
              static_cast<float>(own[w].squares - n * distance * distance + n * rest * rest)};
  }
}

// The mean of one channel of one image, and the sum of the squared distances from it.
struct ChannelTotals {
  double mean;
  double squares;
};

constexpr int combine_columns = 32;
constexpr int combine_shares = 8;

// value(i) of the chunks i, added in a fixed order; the sum in share 0 alone. A block is
// combine_shares warps over the same 32 channels.
template <class Value>
__device__ double sum_of_chunks(std::int64_t chunks, bool is_channel, double* shared,
                                const Value& value) {
  const int share = static_cast<int>(threadIdx.x) / combine_columns;
  double sum = 0.0;
  if (is_channel) {
#pragma unroll 4
    for (std::int64_t i = share; i < chunks; i += combine_shares) sum += value(i);
  }
  __syncthreads();
  shared[threadIdx.x] = sum;
  __syncthreads();
  sum = shared[threadIdx.x % combine_columns];
  for (int k = 1; k < combine_shares; ++k) {
    sum += shared[k * combine_columns + static_cast<int>(threadIdx.x) % combine_columns];
  }
  return sum;
}

// The image and channel of a thread of a combining kernel.
struct CombinePlace {
  std::int64_t image;
  std::int64_t channel;
  bool is_channel;
  bool writes;

  __device__ explicit CombinePlace(const ChannelTile& tile) {
    const std::int64_t across = ceil_div<std::int64_t>(tile.channels, combine_columns);
    image = blockIdx.x / across;
    channel = blockIdx.x % across * combine_columns + threadIdx.x % combine_columns;
    is_channel = channel < tile.channels;
    writes = is_channel && threadIdx.x < combine_columns;
  }
};

inline Launch combine_launch(const ChannelTile& tile) {
  const std::int64_t across = ceil_div<std::int64_t>(tile.channels, combine_columns);
  return {dim3(static_cast<unsigned>(tile.images * across)),
          dim3(combine_columns * combine_shares)};
}

// put(image, channel, ChannelTotals) of all channels.
template <class Put>
__global__ void __launch_bounds__(combine_columns* combine_shares)
    combine_moments(const ChannelTile tile, const ChunkMoments* moments, const Put put) {
  __shared__ double shared[combine_columns * combine_shares];
  const CombinePlace place(tile);
  const ChunkMoments* const own =
      moments + place.image * tile.chunks * tile.channels + place.channel;
  const auto rows_of = [&](std::int64_t i) {
    return static_cast<double>(smaller(tile.each, tile.rows - i * tile.each));
  };
  const double total = sum_of_chunks(tile.chunks, place.is_channel, shared, [&](std::int64_t i) {
    const ChunkMoments m = own[i * tile.channels];
    const float sum = m.center - m.center == 0.0f ? m.sum : 0.0f;
    return rows_of(i) * static_cast<double>(m.center) + static_cast<double>(sum);
  });
  const double mean = total / static_cast<double>(tile.rows);
  const double squares = sum_of_chunks(tile.chunks, place.is_channel, shared, [&](std::int64_t i) {
    const ChunkMoments m = own[i * tile.channels];
    const double shift = static_cast<double>(m.center) - mean;
    return static_cast<double>(m.squares) +
           shift * (2.0 * static_cast<double>(m.sum) + rows_of(i) * shift);
  });
  // Rounding may leave a tiny negative sum where all elements are equal.
  if (place.writes)
    put(place.image, place.channel, ChannelTotals{mean, squares < 0.0 ? 0.0 : squares});
}

// Sums over rows of dy and of dy (x - center).
struct ChannelGradients {
  double plain;
  double centered;

  __device__ void add(const ChannelGradients& other) {
    plain += other.plain;
    centered += other.centered;
  }
};

// The centers of channels, `size` neighbours having the same.
struct Centers {
  const float* values;  // (images, channels / size)
  std::int64_t size;

  __device__ float of(const ChannelTile& tile, std::int64_t image, std::int64_t channel) const {
    return values[image * (tile.channels / size) + channel / size];
  }
};

// gradients (images, chunks, channels)
template <int width>
__global__ void __launch_bounds__(channel_threads)
    add_channel_gradients(const ChannelTile tile, const Centers centers, const float* dy,
                          const float* x, ChannelGradients* gradients) {
  __shared__ __align__(8) unsigned char memory[channel_threads * sizeof(ChannelGradients)];
  const ChannelPlace<width> place(tile);
  const std::int64_t count = place.row_count(tile);
  float center[width] = {}, plain[width] = {}, centered[width] = {};
  if (count > 0) {
#pragma unroll
    for (int w = 0; w < width; ++w) center[w] = centers.of(tile, place.image, place.channel + w);
  }
  each_turn(place, count, [&](std::int64_t at, int rows) {
    float gradient[channel_turn<width>][width], v[channel_turn<width>][width];
    load_turn<width>(dy, at, place.stride, rows, gradient);
    load_turn<width>(x, at, place.stride, rows, v);
#pragma unroll
    for (int w = 0; w < width; ++w) {
#pragma unroll
      for (int k = 0; k < channel_turn<width>; ++k) {
        if (k >= rows) continue;
        plain[w] += gradient[k][w];
        centered[w] = fmaf(gradient[k][w], v[k][w] - center[w], centered[w]);
      }
    }
  });
  ChannelGradients own[width];
#pragma unroll
  for (int w = 0; w < width; ++w) {
    own[w] = {static_cast<double>(plain[w]), static_cast<double>(centered[w])};
  }
  add_shares(tile, place, own, reinterpret_cast<ChannelGradients*>(memory));
  if (!place.is_first_share(tile)) return;
  ChannelGradients* const out =
      gradients + (place.image * tile.chunks + place.chunk) * tile.channels + place.channel;
#pragma unroll
  for (int w = 0; w < width; ++w) out[w] = own[w];
}

// put(image, channel, ChannelGradients) of all channels.
template <class Put>
__global__ void __launch_bounds__(combine_columns* combine_shares)
    combine_gradients(const ChannelTile tile, const ChannelGradients* gradients, const Put put) {
  __shared__ double shared[combine_columns * combine_shares];
  const CombinePlace place(tile);
  const ChannelGradients* const own =
      gradients + place.image * tile.chunks * tile.channels + place.channel;
  const double plain = sum_of_chunks(tile.chunks, place.is_channel, shared,
                                     [&](std::int64_t i) { return own[i * tile.channels].plain; });
  const double centered = sum_of_chunks(tile.chunks, place.is_channel, shared, [&](std::int64_t i) {
    return own[i * tile.channels].centered;
  });
  if (place.writes) put(place.image, place.channel, ChannelGradients{plain, centered});
}

// y = (x - center) factor + term
struct NormalizedBy {
  float center;
  float factor;
  float term;
};

// by.of(image, channel): a NormalizedBy.
template <int width, class By>
__global__ void __launch_bounds__(channel_threads)
    normalize_channels(const ChannelTile tile, const By by, const float* x, float* y) {
  const ChannelPlace<width> place(tile);
  const std::int64_t count = place.row_count(tile);
  if (count == 0) return;
  NormalizedBy own[width];
#pragma unroll
  for (int w = 0; w < width; ++w) own[w] = by.of(place.image, place.channel + w);
  each_turn(place, count, [&](std::int64_t at, int rows) {
    float v[channel_turn<width>][width];
    load_turn<width>(x, at, place.stride, rows, v);
#pragma unroll
    for (int k = 0; k < channel_turn<width>; ++k) {
      if (k >= rows) continue;
      Elements<width> e;
#pragma unroll
      for (int w = 0; w < width; ++w) {
        e.v[w] = fmaf(v[k][w] - own[w].center, own[w].factor, own[w].term);
      }
      store_elements<width>(y, at + k * place.stride, e);
    }
  });
}

// dx = dy slope + (x - center) curve + term
struct GradientBy {
  float center;
  float slope;
  float curve;
  float term;
};

// by.of(image, channel): a GradientBy; its slope alone counts without `couples`.
template <int width, bool couples, class By>
__global__ void __launch_bounds__(channel_threads)
    put_channel_gradients(const ChannelTile tile, const By by, const float* dy, const float* x,
                          float* dx) {
  const ChannelPlace<width> place(tile);
  const std::int64_t count = place.row_count(tile);
  if (count == 0) return;
  GradientBy own[width];
#pragma unroll
  for (int w = 0; w < width; ++w) own[w] = by.of(place.image, place.channel + w);
  each_turn(place, count, [&](std::int64_t at, int rows) {
    float gradient[channel_turn<width>][width], v[channel_turn<width>][width];
    load_turn<width>(dy, at, place.stride, rows, gradient);
    if constexpr (couples) load_turn<width>(x, at, place.stride, rows, v);
#pragma unroll
    for (int k = 0; k < channel_turn<width>; ++k) {
      if (k >= rows) continue;
      Elements<width> e;
#pragma unroll
      for (int w = 0; w < width; ++w) {
        if constexpr (couples) {
          const float others = fmaf(v[k][w] - own[w].center, own[w].curve, own[w].term);
          e.v[w] = fmaf(gradient[k][w], own[w].slope, others);
        } else {
          e.v[w] = gradient[k][w] * own[w].slope;
        }
      }
      store_elements<width>(dx, at + k * place.stride, e);
    }
  });
}

}  // namespace lamella::device
