// Attention forward with tiles of query rows, for any size of head: a block has some rows of one
// head of key and value and goes through the tiles of 64 keys that they see. While a warp makes
// weights of its rows, no other needs them, so that pairs are handed over within the warp.
//
// Keys come while values are multiplied and the other way round. 2 S L (E + Ev) FMAs a head decide:
// keys and values are read once a block, 1 / (2 rows) of a byte a FMA, from L2.
#pragma once

#include "ops/attention/attention_cuda_tiles.cuh"

namespace lamella::attention::tiles {

struct ForwardShape {
  int64_t tiles;      // of rows, of a head
  int depth_chunks;   // of E
  bool last_first;    // later rows see more keys
  bool size_vectors;  // of queries and keys
  bool value_vectors;
};

// Which tile of rows and which head a block has.
struct BlockPlace {
  int64_t tile, head;

  __device__ BlockPlace(int64_t tiles, bool last_first) {
    const int64_t block = blockIdx.x;
    if (last_first) {
      const int64_t heads = gridDim.x / tiles;
      tile = tiles - 1 - block / heads;
      head = block % heads;
    } else {
      tile = block % tiles;
      head = block / tiles;
    }
  }
};

template <int warps, int thread_rows, int columns>
struct ForwardTile {
  static constexpr int threads = warps * 32;
  static constexpr int rows = warps * row_lanes * thread_rows;
  static constexpr int width = tile_width<columns>;
  static constexpr int stride = tile_stride<columns>;
  static constexpr std::size_t bytes =
      rows * sizeof(RowRule) +
      ((rows + 2 * tile_keys) * stride + rows * pair_stride) * sizeof(float);
};

// Makes weights of a tile's scores, relative to the largest so far, and o relative to the same.
template <int thread_rows, int columns, bool general>
__device__ inline void weigh(const Problem& p, const RowRule* rules, int64_t key,
                             float (&s)[thread_rows][thread_keys], float (&maximum)[thread_rows],
                             float (&total)[thread_rows], Sums<thread_rows, columns>& o,
                             float* pairs) {
#pragma unroll
  for (int r = 0; r < thread_rows; ++r) {
    float largest = s[r][0];
#pragma unroll
    for (int j = 1; j < thread_keys; ++j) largest = fmaxf(largest, s[r][j]);
    const float before = maximum[r];
    maximum[r] = fmaxf(before, max_of_key_lanes(largest));
    // Where all scores are -inf the maximum must not be subtracted.
    const float base = maximum[r] == minus_infinity() ? 0.0f : maximum[r];
    unsigned kept = 0xFFu;
    float factor = 1.0f;
    if constexpr (general) {
      if (p.drops) {
        kept = kept_keys(p, rules[r * row_lanes].score_row, key);
        factor = p.dropout.scale;
      }
    }
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < thread_keys; ++j) {
      const float e = exp2f(s[r][j] - base);
      sum += e;
      float weight = e;
      if constexpr (general) weight = (kept >> j & 1) != 0 ? e * factor : 0.0f;
      pairs[r * row_lanes * pair_stride + key_lane() + j * key_lanes] = weight;
    }
    if (before == maximum[r]) {
      total[r] += sum;
      continue;
    }
    const float shrink = exp2f(before - base);
    total[r] = total[r] * shrink + sum;
#pragma unroll
    for (int c = 0; c < 4 * columns; ++c) o[r][c] = shrink == 0.0f ? 0.0f : o[r][c] * shrink;
  }
}

template <int warps, int thread_rows, int columns, bool general>
__global__ void __launch_bounds__(warps * 32)
    attend(const Problem p, const Results out, const ForwardShape shape) {
  using Tile = ForwardTile<warps, thread_rows, columns>;
  constexpr int threads = Tile::threads;
  constexpr int stride = Tile::stride;
  constexpr int width = Tile::width;
  RowRule* const rules = lamella::device::dynamic_shared<RowRule>();
  float* const queries = reinterpret_cast<float*>(rules + Tile::rows);
  float* const keys = queries + Tile::rows * stride;
  float* const values = keys + tile_keys * stride;
  float* const pairs = values + tile_keys * stride;

  const BlockPlace place(shape.tiles, shape.last_first);
  const Rows rows = Rows::of_key_head(p, place.head / p.key_heads, place.head % p.key_heads);
  const int64_t first = place.tile * Tile::rows;
  const int64_t last = smaller<int64_t>(first + Tile::rows, rows.count) - 1;
  const int row_count = static_cast<int>(last - first + 1);
  const Span seen = rows.seen_by_some(p, first, last);
  const Span whole = rows.seen_by_all(p, first, last);
  const int value_at = static_cast<int>(blockIdx.y) * width;
  const int value_width = static_cast<int>(smaller<int64_t>(width, p.value_size - value_at));

  find_rules(p, rows, first, Tile::rows, rules);
  __syncthreads();
  const int64_t key_stride = p.key_heads * p.size;
  const int64_t value_stride = p.key_heads * p.value_size;
  const float* const head_keys = p.key + rows.n * p.keys * key_stride + rows.key_head * p.size;
  const float* const head_values =
      p.value + rows.n * p.keys * value_stride + rows.key_head * p.value_size + value_at;
  const auto load_keys = [&](int64_t key, int64_t at, int depth) {
    const float* const from = head_keys + key * key_stride + at;
    const int valid = static_cast<int>(smaller<int64_t>(tile_keys, p.keys - key));
    load_rows<threads>(keys, stride, tile_keys, valid, depth, shape.size_vectors,
                       [&](int r) { return from + r * key_stride; });
  };
  const auto load_queries = [&](int64_t at, int depth) {
    load_rows<threads>(queries, stride, Tile::rows, row_count, depth, shape.size_vectors,
                       [&](int r) { return p.query + rules[r].query_row * p.size + at; });
  };
  const auto depth_of = [&](int chunk) {
    return static_cast<int>(smaller<int64_t>(width, p.size - int64_t{chunk} * width));
  };

  const int warp_row = warp() * row_lanes * thread_rows + row_lane();
  const RowRule* const my_rules = rules + warp_row;
  float* const my_pairs = pairs + warp_row * pair_stride;
  Sums<thread_rows, columns> o;
  float maximum[thread_rows];
  float total[thread_rows];
#pragma unroll
  for (int r = 0; r < thread_rows; ++r) {
    maximum[r] = minus_infinity();
    total[r] = 0.0f;
#pragma unroll
    for (int c = 0; c < 4 * columns; ++c) o[r][c] = 0.0f;
  }

  const bool one_chunk = shape.depth_chunks == 1;
  int64_t key = seen.begin / tile_keys * tile_keys;
  if (one_chunk && key < seen.end) {
    load_queries(0, depth_of(0));
    load_keys(key, 0, depth_of(0));
    lamella::device::copy_commit();
  }
  for (; key < seen.end; key += tile_keys) {
    float s[thread_rows][thread_keys] = {};
    for (int chunk = 0; chunk < shape.depth_chunks; ++chunk) {
      if (!one_chunk) {
        __syncthreads();
        load_queries(int64_t{chunk} * width, depth_of(chunk));
        load_keys(key, int64_t{chunk} * width, depth_of(chunk));
        lamella::device::copy_commit();
      }
      lamella::device::copy_wait<0>();
      __syncthreads();
      if (chunk == 0) {
        const float* const from = head_values + key * value_stride;
        load_rows<threads>(values, stride, tile_keys,
                           static_cast<int>(smaller<int64_t>(tile_keys, p.keys - key)), value_width,
                           shape.value_vectors, [&](int r) { return from + r * value_stride; });
        lamella::device::copy_commit();
      }
      add_dots<stride>(queries + warp_row * stride, keys + key_lane() * stride,
                       whole_vectors(depth_of(chunk)), s);
    }
    finish_scores<thread_rows, general>(
        p, my_rules, key,
        key >= whole.begin && key + tile_keys <= whole.end && row_count == Tile::rows, s);
    weigh<thread_rows, columns, general>(p, my_rules, key, s, maximum, total, o, my_pairs);
    lamella::device::copy_wait<0>();
    const bool finite = __syncthreads_and(
        copied_are_finite<threads>(values, stride, tile_keys, value_width, shape.value_vectors));
    if (one_chunk && key + tile_keys < seen.end) {
      load_keys(key + tile_keys, 0, depth_of(0));
      lamella::device::copy_commit();
    }
    add_over_keys<thread_rows, columns>(my_pairs, values, finite, o);
  }

#pragma unroll
  for (int r = 0; r < thread_rows; ++r) {
    const float sum = sum_of_key_lanes(total[r]);
    if (warp_row + r * row_lanes >= row_count) continue;
    const RowRule& rule = my_rules[r * row_lanes];
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    if (sum == 0.0f) {
#pragma unroll
      for (int c = 0; c < 4 * columns; ++c) o[r][c] = 0.0f;
    }
    store_row<columns>(o[r], inverse, value_width, shape.value_vectors,
                       out.y + rule.query_row * p.value_size + value_at);
    if (blockIdx.y == 0 && key_lane() == 0) {
      out.lse[rule.score_row] = sum == 0.0f ? minus_infinity() : maximum[r] + log2_e * logf(sum);
    }
  }
}

}  // namespace lamella::attention::tiles
