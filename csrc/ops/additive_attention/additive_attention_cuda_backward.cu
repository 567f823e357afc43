// Additive attention backward on the device. What forward found is found again: y, lse, and with
// gradients of them the weights. Then one kernel goes through the keys for the gradients of queries
// and scale, one through the queries for those of keys and values, 64 by 64 pairs at a time.
#include "core/memory_pool.h"
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "ops/additive_attention/additive_attention_cuda_results.h"
#include "ops/additive_attention/additive_attention_cuda_tiles.cuh"

namespace lamella::additive_attention {
namespace {

using namespace tiles;

// Gradients of a thread's features, one feature after the other.
template <int columns>
using Features = float[4 * columns];

template <int columns>
__device__ void take_features(const float* row, Features<columns>& x) {
#pragma unroll
  for (int c = 0; c < columns; ++c) {
    const float4 v = load4(row + c * 32 + key_lane() * 4);
    x[4 * c] = v.x;
    x[4 * c + 1] = v.y;
    x[4 * c + 2] = v.z;
    x[4 * c + 3] = v.w;
  }
}

// Of the sum over pairs the parts that are 4 and the feature's scale.
template <int columns>
__device__ void scale_features(const AdditiveTile<columns>& tile, int chunk, Features<columns>& x) {
#pragma unroll
  for (int c = 0; c < 4 * columns; ++c) {
    const int e = c / 4 * 32 + key_lane() * 4 + c % 4;
    if (e < tile.depth_of(chunk)) {
      x[c] *= 4.0f * tile.scale_of(int64_t{chunk} * AdditiveTile<columns>::width + e);
    }
  }
}

// dq and dscale of the thread's rows from a tile of gradients of scores, queries and keys.
template <int columns, bool exponentials>
__device__ void add_query_features(const AdditiveTile<columns>& tile,
                                   Sums<backward_thread_rows, columns>& dq,
                                   Features<columns>& dscale) {
  constexpr int stride = AdditiveTile<columns>::stride;
#pragma unroll 1
  for (int r = 0; r < backward_thread_rows; ++r) {
    Features<columns> q, k;
    Features<columns> sum = {};
    take_features<columns>(tile.queries + (tile.warp_row() + r * row_lanes) * stride, q);
    const float* const ds = tile.my_pairs() + r * row_lanes * pair_stride;
#pragma unroll 2
    for (int j = 0; j < tile_keys; ++j) {
      const float gradient = ds[j];
      take_features<columns>(tile.keys + j * stride, k);
#pragma unroll
      for (int c = 0; c < 4 * columns; ++c) {
        const FeatureGradient g = exponentials
                                      ? differentiate_feature(gradient, q[c], k[c])
                                      : differentiate_feature_by_tanh(gradient, q[c], k[c]);
        sum[c] += g.slope;
        dscale[c] += g.h;
      }
    }
    // r is not a constant here: each row adds the sum or nothing.
#pragma unroll
    for (int i = 0; i < backward_thread_rows; ++i) {
#pragma unroll
      for (int c = 0; c < 4 * columns; ++c) dq[i][c] += i == r ? sum[c] : 0.0f;
    }
  }
}

// dk of the thread's 4 keys.
template <int columns, bool exponentials>
__device__ void add_key_features(const AdditiveTile<columns>& tile, int my_key, int count,
                                 Sums<4, columns>& dk) {
  constexpr int stride = AdditiveTile<columns>::stride;
#pragma unroll 1
  for (int i = 0; i < 4; ++i) {
    Features<columns> q, k;
    Features<columns> sum = {};
    take_features<columns>(tile.keys + (my_key + i) * stride, k);
#pragma unroll 2
    for (int r = 0; r < count; ++r) {
      const float gradient = tile.pairs[r * pair_stride + my_key + i];
      take_features<columns>(tile.queries + r * stride, q);
#pragma unroll
      for (int c = 0; c < 4 * columns; ++c) {
        const FeatureGradient g = exponentials
                                      ? differentiate_feature(gradient, q[c], k[c])
                                      : differentiate_feature_by_tanh(gradient, q[c], k[c]);
        sum[c] += g.slope;
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int c = 0; c < 4 * columns; ++c) dk[j][c] += i == j ? sum[c] : 0.0f;
    }
  }
}

// Gradients of a tile of queries, and of scale a row for each block. Either may be null.
template <int columns>
__global__ void __launch_bounds__(backward_threads)
    differentiate_queries(const Problem problem, const attention::Saved saved,
                          const BackwardShape shape, const float* terms, const float* inverses,
                          float* dq, float* dscale) {
  using Tile = AdditiveTile<columns>;
  const attention::Problem& p = problem.pairs;
  const Tile tile(problem, saved, shape, terms, inverses);
  const Rows rows = Rows::of_head(p, blockIdx.x % p.batch, 0);
  const int64_t t = shape.row_tiles - 1 - blockIdx.x / p.batch;
  const int64_t first = t * backward_rows;
  const int64_t last = smaller(first + backward_rows, rows.count) - 1;
  const int count = static_cast<int>(last - first + 1);
  const int chunk = static_cast<int>(blockIdx.y);
  tile.take_rows(rows, first);
  Sums<backward_thread_rows, columns> sums = {};
  Features<columns> scale_sums = {};
  const Span some = rows.seen_by_some(p, first, last);
  for (int64_t key = some.begin / tile_keys * tile_keys; key < some.end; key += tile_keys) {
    const Meeting meeting(p, rows, t, key);
    Pairs s = {};
    Pairs dw = {};
    tile.score(rows, key, count, s);
    tile.multiply_values(rows, key, count, dw);
    tile.differentiate(key, meeting.whole, true, s, dw);
    __syncthreads();
    tile.put_pairs(dw);
    tile.load_features(rows, key, chunk, count);
    Tile::arrive();
    __syncthreads();
    if (tile.exponentiate(chunk)) {
      add_query_features<columns, true>(tile, sums, scale_sums);
    } else {
      add_query_features<columns, false>(tile, sums, scale_sums);
    }
  }
  __syncthreads();
  const int depth = tile.depth_of(chunk);
#pragma unroll
  for (int r = 0; r < backward_thread_rows; ++r) {
    const int row = Tile::warp_row() + r * row_lanes;
    if (dq == nullptr || row >= count) continue;
    scale_features<columns>(tile, chunk, sums[r]);
    store_row<columns>(sums[r], 1.0f, depth, shape.size_vectors,
                       dq + tile.rules[row].query_row * p.size + chunk * Tile::width);
  }
  if (dscale == nullptr) return;
  // Over the lanes of rows, then over the warps.
  float* const sums_of_warps = tile.pairs;
#pragma unroll
  for (int c = 0; c < 4 * columns; ++c) {
    float sum = scale_sums[c];
    sum += __shfl_xor_sync(all_lanes, sum, 1);
    sum += __shfl_xor_sync(all_lanes, sum, 16);
    const int e = c / 4 * 32 + key_lane() * 4 + c % 4;
    if (row_lane() == 0) sums_of_warps[warp() * Tile::width + e] = sum;
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < depth; e += backward_threads) {
    float sum = sums_of_warps[e];
    for (int w = 1; w < backward_threads / 32; ++w) sum += sums_of_warps[w * Tile::width + e];
    dscale[blockIdx.x * p.size + chunk * Tile::width + e] = sum;
  }
}

// Gradients of a tile of keys and its values. Either may be null.
template <int columns>
__global__ void __launch_bounds__(backward_threads)
    differentiate_keys(const Problem problem, const attention::Saved saved,
                       const BackwardShape shape, const float* terms, const float* inverses,
                       float* dk, float* dv) {
  using Tile = AdditiveTile<columns>;
  const attention::Problem& p = problem.pairs;
  const Tile tile(problem, saved, shape, terms, inverses);
  const Rows rows = Rows::of_head(p, blockIdx.x % p.batch, 0);
  const int64_t key = blockIdx.x / p.batch * tile_keys;
  const int chunk = static_cast<int>(blockIdx.y);
  const bool has_dk = dk != nullptr && chunk < shape.depth_chunks;
  const bool has_dv = dv != nullptr && chunk < shape.value_chunks;
  Sums<4, columns> sums_k = {};
  Sums<4, columns> sums_v = {};
  const int my_key = warp() * 16 + row_lane() * 4;
  for (int64_t t = 0; t < shape.row_tiles; ++t) {
    const Meeting meeting(p, rows, t, key);
    if (meeting.empty) continue;
    const int count = meeting.count();
    __syncthreads();
    tile.take_rows(rows, meeting.first);
    Pairs s = {};
    Pairs dw = {};
    tile.score(rows, key, count, s);
    tile.multiply_values(rows, key, count, dw);
    tile.differentiate(key, meeting.whole, true, s, dw);
    if (has_dv && saved.dy != nullptr) {
      __syncthreads();
      tile.put_pairs(s);
      tile.load_dy(chunk, count);
      Tile::arrive();
      const bool finite = __syncthreads_and(
          tile.mine_are_finite(tile.dy, tile.value_depth_of(chunk), shape.value_vectors));
      add_over_rows<columns>(tile.pairs + my_key, tile.dy, count, finite, sums_v);
    }
    if (has_dk) {
      __syncthreads();
      tile.put_pairs(dw);
      tile.load_features(rows, key, chunk, count);
      Tile::arrive();
      __syncthreads();
      if (tile.exponentiate(chunk)) {
        add_key_features<columns, true>(tile, my_key, count, sums_k);
      } else {
        add_key_features<columns, false>(tile, my_key, count, sums_k);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t mine = key + my_key + i;
    if (mine >= p.keys) continue;
    const int64_t at = rows.n * p.keys + mine;
    if (has_dk) {
      scale_features<columns>(tile, chunk, sums_k[i]);
      store_row<columns>(sums_k[i], 1.0f, tile.depth_of(chunk), shape.size_vectors,
                         dk + at * p.size + chunk * Tile::width);
    }
    if (has_dv) {
      store_row<columns>(sums_v[i], 1.0f, tile.value_depth_of(chunk), shape.value_vectors,
                         dv + at * p.value_size + chunk * Tile::width);
    }
  }
}

template <int columns>
void differentiate(const Problem& problem, const attention::Saved& saved, const Gradients& out,
                   const float* terms, const float* inverses) {
  using Tile = AdditiveTile<columns>;
  const attention::Problem& p = problem.pairs;
  BackwardShape shape = backward_shape<Tile::width>(p, p.queries);
  shape.size_vectors =
      shape.size_vectors && fits_vectors(out.query, p.size) && fits_vectors(out.key, p.size);
  shape.value_vectors = shape.value_vectors && fits_vectors(saved.dy, p.value_size) &&
                        fits_vectors(out.value, p.value_size);
  if (out.query != nullptr || out.scale != nullptr) {
    const int64_t blocks = shape.row_tiles * p.batch;
    const Scratch<float> dscale(p.op, out.scale == nullptr ? 0 : blocks * p.size);
    lamella::device::launch(
        p.op,
        {.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(shape.depth_chunks)),
         .block = dim3(backward_threads),
         .shared_bytes = Tile::bytes},
        differentiate_queries<columns>, problem, saved, shape, terms, inverses, out.query,
        dscale.get());
    if (out.scale != nullptr) {
      lamella::device::launch(p.op, lamella::device::elements(p.size, 1), add_splits<float>,
                              dscale.get(), blocks, p.size, out.scale);
    }
  }
  if (out.key == nullptr && out.value == nullptr) return;
  const auto chunks = static_cast<unsigned>(larger(shape.depth_chunks, shape.value_chunks));
  lamella::device::launch(p.op,
                          {.grid = dim3(static_cast<unsigned>(shape.key_tiles * p.batch), chunks),
                           .block = dim3(backward_threads),
                           .shared_bytes = Tile::bytes},
                          differentiate_keys<columns>, problem, saved, shape, terms, inverses,
                          out.key, out.value);
}

void clear(float* gradient, int64_t size) {
  if (gradient == nullptr) return;
  lamella::device::fill_bytes(gradient, 0, static_cast<std::size_t>(size) * sizeof(float));
}

int backward_columns_of(const Problem& problem) {
  const std::size_t memory = lamella::device::properties().shared_bytes;
  const int64_t width = larger(problem.pairs.size, problem.pairs.value_size);
  return width > 32 && AdditiveTile<2>::bytes <= memory ? 2 : 1;
}

}  // namespace

namespace device {

void backward(const Problem& problem, const ResultGradients& dy, const Gradients& out) {
  const attention::Problem& p = problem.pairs;
  const int64_t rows = p.batch * p.queries;
  if (rows * p.keys == 0) {
    clear(out.query, rows * p.size);
    clear(out.key, p.batch * p.keys * p.size);
    clear(out.value, p.batch * p.keys * p.value_size);
    clear(out.scale, p.size);
    return;
  }
  const Scratch<float> y(p.op, rows * p.value_size);
  const Scratch<float> maxima(p.op, rows);
  const Scratch<float> inverses(p.op, rows);
  const Scratch<float> weights(p.op, dy.weights == nullptr ? 0 : rows * p.keys);
  const Scratch<float> terms(p.op, rows);
  results_on_device(problem, y.get(), {maxima.get(), inverses.get()}, weights.get());
  const attention::Saved saved = {y.get(), maxima.get(), weights.get(), dy.y, nullptr, dy.weights};
  find_row_terms(p, saved, terms.get());
  if (backward_columns_of(problem) == 2) {
    differentiate<2>(problem, saved, out, terms.get(), inverses.get());
  } else {
    differentiate<1>(problem, saved, out, terms.get(), inverses.get());
  }
}

}  // namespace device
}  // namespace lamella::additive_attention
