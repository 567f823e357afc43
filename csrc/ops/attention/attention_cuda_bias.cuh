// What has an element for each pair: weights as a result, and the gradient of the bias, in the
// shape of the bias.
#pragma once

#include "ops/attention/attention_cuda_backward.cuh"

namespace lamella::attention::tiles {

// The weights of one tile of rows and one of keys, of one head; 0 where nothing is visible. Writes
// of 4 S L bytes a head decide while E is below about 30.
template <int columns>
__global__ void __launch_bounds__(backward_threads)
    put_weights(const Problem p, const Saved saved, const BackwardShape shape, float* weights) {
  using Tile = PairTile<columns, true>;
  const Tile tile(p, saved, shape, saved.lse);
  const int64_t tiles = shape.row_tiles * shape.key_tiles;
  const int64_t head = blockIdx.x / tiles;
  const Rows rows = Rows::of_head(p, head / p.heads, head % p.heads);
  const int64_t t = blockIdx.x % tiles / shape.key_tiles;
  const int64_t key = blockIdx.x % shape.key_tiles * tile_keys;
  const Meeting meeting(p, rows, t, key);
  tile.take_rows(rows, meeting.first);
  __syncthreads();
  Pairs s = {};
  Pairs none = {};
  if (!meeting.empty) {
    if (tile.is_resident()) {
      tile.load_queries(0, meeting.count());
      tile.load_keys(rows, key, 0);
      Tile::arrive();
      __syncthreads();
    }
    tile.multiply(rows, key, meeting.count(), s, none);
    tile.differentiate(key, meeting.whole, false, s, none);
  }
  store_pairs(tile, key, meeting.count(), s, weights);
}

// How the gradient of the bias is cut: a block has one tile of the bias and a share of all that is
// added up in it. Along an axis that the bias repeats there is one place, and the axis is gone
// through.
struct BiasShape {
  int64_t batch, heads, row_tiles, key_tiles;  // places
  int64_t sum_batch, sum_heads, sum_rows, sum_keys;
  int64_t size;  // elements of the bias
  bool repeats_rows, repeats_keys;
};

template <int columns>
__global__ void __launch_bounds__(backward_threads)
    differentiate_bias(const Problem p, const Saved saved, const BackwardShape shape,
                       const float* row_terms, const BiasShape bias, float* out) {
  using Tile = PairTile<columns, true>;
  const Tile tile(p, saved, shape, row_terms);
  int64_t place = blockIdx.x;
  const int64_t key_place = place % bias.key_tiles;
  place /= bias.key_tiles;
  const int64_t row_place = place % bias.row_tiles;
  place /= bias.row_tiles;
  const int64_t head_place = place % bias.heads;
  const int64_t batch_place = place / bias.heads;
  const Share share(bias.sum_batch * bias.sum_heads * bias.sum_rows * bias.sum_keys, blockIdx.y,
                    shape.splits);
  Pairs sums = {};
  for (int64_t turn = share.begin; turn < share.end; ++turn) {
    int64_t rest = turn;
    const int64_t key = (key_place + rest % bias.sum_keys) * tile_keys;
    rest /= bias.sum_keys;
    const int64_t t = row_place + rest % bias.sum_rows;
    rest /= bias.sum_rows;
    const int64_t head = head_place + rest % bias.sum_heads;
    const int64_t n = batch_place + rest / bias.sum_heads;
    const Rows rows = Rows::of_head(p, n, head);
    const Meeting meeting(p, rows, t, key);
    if (meeting.empty) continue;
    const int count = meeting.count();
    __syncthreads();
    tile.take_rows(rows, meeting.first);
    __syncthreads();
    if (tile.is_resident()) {
      tile.load_queries(0, count);
      tile.load_keys(rows, key, 0);
      if (saved.dy != nullptr) {
        tile.load_dy(0, count);
        tile.load_values(rows, key, 0);
      }
      Tile::arrive();
      __syncthreads();
    }
    Pairs s = {};
    Pairs dw = {};
    tile.multiply(rows, key, count, s, dw);
    tile.differentiate(key, meeting.whole, false, s, dw);
#pragma unroll
    for (int r = 0; r < backward_thread_rows; ++r) {
#pragma unroll
      for (int j = 0; j < thread_keys; ++j) sums[r][j] += dw[r][j];
    }
  }
  tile.put_pairs(sums);
  __syncthreads();
  const int64_t first = row_place * backward_rows;
  const int64_t key = key_place * tile_keys;
  const int64_t at = blockIdx.y * bias.size + batch_place * p.bias_strides.n +
                     head_place * p.bias_strides.a + first * p.bias_strides.i +
                     key * p.bias_strides.j;
  const int thread = static_cast<int>(threadIdx.x);
  const int rows_left = static_cast<int>(smaller<int64_t>(backward_rows, p.queries - first));
  const int keys_left = static_cast<int>(smaller<int64_t>(tile_keys, p.keys - key));
  if (!bias.repeats_rows && !bias.repeats_keys) {
    for (int r = thread / tile_keys; r < rows_left; r += backward_threads / tile_keys) {
      const int c = thread % tile_keys;
      if (c < keys_left) out[at + r * p.bias_strides.i + c] = tile.pairs[r * pair_stride + c];
    }
    return;
  }
  // Sums of columns, or of rows in the tile's first column, or of the first of these.
  float sum = 0.0f;
  if (bias.repeats_rows && thread < tile_keys) {
    for (int r = 0; r < backward_rows; ++r) sum += tile.pairs[r * pair_stride + thread];
    if (!bias.repeats_keys) {
      if (thread < keys_left) out[at + thread] = sum;
      return;
    }
  } else if (!bias.repeats_rows && thread < backward_rows) {
    for (int c = 0; c < tile_keys; ++c) sum += tile.pairs[thread * pair_stride + c];
    if (thread < rows_left) out[at + thread * p.bias_strides.i] = sum;
    return;
  }
  if (!bias.repeats_keys || !bias.repeats_rows) return;
  __syncthreads();
  if (thread < tile_keys) tile.pairs[thread] = sum;
  __syncthreads();
  if (thread != 0) return;
  for (int c = 1; c < tile_keys; ++c) sum += tile.pairs[c];
  out[at] = sum;
}

}  // namespace lamella::attention::tiles
