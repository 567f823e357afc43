// Attention backward on the device: tiles of 64 rows by 64 keys, whose weights and gradients of
// scores come again from queries, keys and lse. One kernel has the gradients of keys and values and
// goes through the rows, one has those of queries and goes through the keys, one that of the bias:
// each sum is made in one place, in a fixed order, with no array of S * L. FMAs decide: 4 of the 5
// products in the first kernel, 3 in the second.
#pragma once

#include "ops/attention/attention_cuda_tiles.cuh"

namespace lamella::attention::tiles {

struct BackwardShape {
  int64_t row_tiles, key_tiles;  // of a head
  int depth_chunks, value_chunks;
  bool size_vectors, value_vectors;
  int splits;  // parts that what a block goes through is cut into
};

constexpr int backward_threads = 128;
constexpr int backward_rows = 64;
constexpr int backward_thread_rows = 4;

using Pairs = float[backward_thread_rows][thread_keys];

// A block's shared memory, and what it does with any tile.
template <int columns, bool general>
struct PairTile {
  static constexpr int width = tile_width<columns>;
  static constexpr int stride = tile_stride<columns>;
  static constexpr int threads = backward_threads;
  static constexpr int rows = backward_rows;
  static constexpr std::size_t bytes =
      rows * sizeof(RowRule) +
      (3 * rows + 2 * (rows + tile_keys) * stride + rows * pair_stride) * sizeof(float);

  const Problem& p;
  const Saved& saved;
  const BackwardShape& shape;
  const float* row_terms;
  const float* inverse_totals;
  RowRule* rules;
  float *lse, *terms, *inverses;  // of the tile's rows
  float *queries, *dy, *keys, *values, *pairs;

  // `inverses_of_totals`: null, or where saved.lse is the maximum of a row, what its exponentials
  // are to be multiplied with.
  __device__ PairTile(const Problem& problem, const Saved& given, const BackwardShape& s,
                      const float* d, const float* inverses_of_totals = nullptr)
      : p(problem), saved(given), shape(s), row_terms(d), inverse_totals(inverses_of_totals) {
    rules = lamella::device::dynamic_shared<RowRule>();
    lse = reinterpret_cast<float*>(rules + rows);
    terms = lse + rows;
    inverses = terms + rows;
    queries = inverses + rows;
    dy = queries + rows * stride;
    keys = dy + rows * stride;
    values = keys + tile_keys * stride;
    pairs = values + tile_keys * stride;
  }

  __device__ bool is_resident() const { return shape.depth_chunks == 1 && shape.value_chunks == 1; }
  __device__ int depth_of(int chunk) const { return chunk_of(p.size, chunk); }
  __device__ int value_depth_of(int chunk) const { return chunk_of(p.value_size, chunk); }
  __device__ static int warp_row() {
    return warp() * row_lanes * backward_thread_rows + row_lane();
  }
  __device__ RowRule* my_rules() const { return rules + warp_row(); }
  __device__ float* my_pairs() const { return pairs + warp_row() * pair_stride; }

  // The rows from `first` on: to be called by the whole block, which then has to meet.
  __device__ void take_rows(const Rows& all, int64_t first) const {
    for (int r = static_cast<int>(threadIdx.x); r < rows; r += threads) {
      const RowRule rule(p, all, first + r);
      rules[r] = rule;
      lse[r] = saved.lse[rule.score_row];
      terms[r] = row_terms[rule.score_row];
      if (inverse_totals != nullptr) inverses[r] = inverse_totals[rule.score_row];
    }
  }

  // Chunks of rows or keys; asynchronous. The rules must be there.
  __device__ void load_queries(int chunk, int count) const {
    load_rows<threads>(
        queries, stride, rows, count, depth_of(chunk), shape.size_vectors,
        [&](int r) { return p.query + rules[r].query_row * p.size + chunk * width; });
  }
  __device__ void load_dy(int chunk, int count) const {
    load_rows<threads>(
        dy, stride, rows, count, value_depth_of(chunk), shape.value_vectors,
        [&](int r) { return saved.dy + rules[r].query_row * p.value_size + chunk * width; });
  }
  __device__ void load_keys(const Rows& all, int64_t key, int chunk) const {
    const int64_t step = p.key_heads * p.size;
    const float* const from =
        p.key + (all.n * p.keys + key) * step + all.key_head * p.size + chunk * width;
    load_rows<threads>(keys, stride, tile_keys, valid_keys(key), depth_of(chunk),
                       shape.size_vectors, [&](int r) { return from + r * step; });
  }
  __device__ void load_values(const Rows& all, int64_t key, int chunk) const {
    const int64_t step = p.key_heads * p.value_size;
    const float* const from =
        p.value + (all.n * p.keys + key) * step + all.key_head * p.value_size + chunk * width;
    load_rows<threads>(values, stride, tile_keys, valid_keys(key), value_depth_of(chunk),
                       shape.value_vectors, [&](int r) { return from + r * step; });
  }
  __device__ static void arrive() {
    lamella::device::copy_commit();
    lamella::device::copy_wait<0>();
  }
  __device__ bool mine_are_finite(const float* tile, int depth, bool vectors) const {
    return copied_are_finite<threads>(tile, stride, rows, depth, vectors);
  }

  // Products of queries and keys, and of dy and values where there is a dy. What is not resident
  // comes chunk by chunk, and all of the block meets before.
  __device__ void multiply(const Rows& all, int64_t key, int count, Pairs& s, Pairs& dw) const {
    const bool resident = is_resident();
    const int at = warp_row() * stride;
    const int key_at = key_lane() * stride;
    for (int chunk = 0; chunk < shape.depth_chunks; ++chunk) {
      if (!resident) {
        __syncthreads();
        load_queries(chunk, count);
        load_keys(all, key, chunk);
        arrive();
        __syncthreads();
      }
      add_dots<stride>(queries + at, keys + key_at, whole_vectors(depth_of(chunk)), s);
    }
    if (saved.dy == nullptr) return;
    for (int chunk = 0; chunk < shape.value_chunks; ++chunk) {
      if (!resident) {
        __syncthreads();
        load_dy(chunk, count);
        load_values(all, key, chunk);
        arrive();
        __syncthreads();
      }
      add_dots<stride>(dy + at, values + key_at, whole_vectors(value_depth_of(chunk)), dw);
    }
  }

  // Weights in place of products, and gradients of scores in place of those of weights: of the
  // products of queries and keys if `of_products`, else of what the bias is added to.
  __device__ void differentiate(int64_t key, bool whole, bool of_products, Pairs& s,
                                Pairs& dw) const {
    Pairs slopes;
    finish_scores<backward_thread_rows, general>(p, my_rules(), key, whole, s, slopes);
#pragma unroll
    for (int r = 0; r < backward_thread_rows; ++r) {
      const int row = warp_row() + r * row_lanes;
      const float base = lse[row] == minus_infinity() ? 0.0f : lse[row];
      const float term = terms[row];
      const int64_t score_row = rules[row].score_row;
      unsigned kept = 0xFFu;
      if constexpr (general) {
        if (p.drops) kept = kept_keys(p, score_row, key);
      }
#pragma unroll
      for (int j = 0; j < thread_keys; ++j) {
        float probability = exp2f(s[r][j] - base);
        if constexpr (general) {
          if (inverse_totals != nullptr) probability *= inverses[row];
        }
        const bool unseen = probability == 0.0f;
        float gradient = dw[r][j];
        float weight = probability;
        if constexpr (general) {
          if (saved.dweights != nullptr && !unseen) {
            gradient += saved.dweights[score_row * p.keys + key + key_lane() + j * key_lanes];
          }
          if (p.drops) {
            const bool keeps = (kept >> j & 1) != 0;
            weight = keeps ? probability * p.dropout.scale : 0.0f;
            if (!keeps) gradient = 0.0f;
          }
          gradient = weight * gradient - probability * term;
          if (p.softcap != 0.0f && of_products && gradient != 0.0f) gradient *= slopes[r][j];
        } else {
          gradient = probability * (gradient - term);
        }
        s[r][j] = weight;
        dw[r][j] = unseen ? 0.0f : gradient;
      }
    }
  }

  __device__ void put_pairs(const Pairs& x) const {
    float* const to = my_pairs() + key_lane();
#pragma unroll
    for (int r = 0; r < backward_thread_rows; ++r) {
#pragma unroll
      for (int j = 0; j < thread_keys; ++j)
        to[r * row_lanes * pair_stride + j * key_lanes] = x[r][j];
    }
  }

 private:
  __device__ static int chunk_of(int64_t size, int chunk) {
    return static_cast<int>(smaller<int64_t>(width, size - int64_t{chunk} * width));
  }
  __device__ int valid_keys(int64_t key) const {
    return static_cast<int>(smaller<int64_t>(tile_keys, p.keys - key));
  }
};

// Where a tile of rows meets a tile of keys.
struct Meeting {
  int64_t first, last;
  bool empty, whole;

  __device__ Meeting(const Problem& p, const Rows& rows, int64_t tile, int64_t key)
      : first(tile * backward_rows), last(smaller(first + backward_rows, rows.count) - 1) {
    const Span some = rows.seen_by_some(p, first, last);
    const Span all = rows.seen_by_all(p, first, last);
    empty = some.end <= key || some.begin >= key + tile_keys;
    whole = all.begin <= key && all.end >= key + tile_keys && last - first + 1 == backward_rows;
  }
  __device__ int count() const { return static_cast<int>(last - first + 1); }
};

// A tile's pairs into an array (N,A,S,L).
template <class Tile>
__device__ inline void store_pairs(const Tile& tile, int64_t key, int count, const Pairs& x,
                                   float* to) {
#pragma unroll
  for (int r = 0; r < backward_thread_rows; ++r) {
    const int row = Tile::warp_row() + r * row_lanes;
    if (row >= count) continue;
    float* const row_to = to + tile.rules[row].score_row * tile.p.keys + key;
#pragma unroll
    for (int j = 0; j < thread_keys; ++j) {
      const int c = key_lane() + j * key_lanes;
      if (key + c < tile.p.keys) row_to[c] = x[r][j];
    }
  }
}

// Part `split` of `splits` of [0, count).
struct Share {
  int64_t begin, end;
  __device__ Share(int64_t count, int64_t split, int64_t splits)
      : begin(count * split / splits), end(count * (split + 1) / splits) {}
};

// Gradients of the keys and values of a tile of keys, those of all query heads of the group. `out`
// has an array for each split, `key_floats` and `value_floats` apart.
template <int columns, bool general>
__global__ void __launch_bounds__(backward_threads)
    differentiate_keys(const Problem p, const Saved saved, const BackwardShape shape,
                       const float* row_terms, float* dk, float* dv) {
  using Tile = PairTile<columns, general>;
  const Tile tile(p, saved, shape, row_terms);
  const int64_t heads = p.batch * p.key_heads;
  const int64_t head = blockIdx.x % heads;
  const Rows rows = Rows::of_key_head(p, head / p.key_heads, head % p.key_heads);
  const int64_t key = blockIdx.x / heads * tile_keys;
  const int chunk = static_cast<int>(blockIdx.y);
  const bool has_dk = dk != nullptr && chunk < shape.depth_chunks;
  const bool has_dv = dv != nullptr && chunk < shape.value_chunks;
  const bool multiplies_dv = has_dv && saved.dy != nullptr;
  const bool resident = tile.is_resident();

  Sums<4, columns> sums_k = {};
  Sums<4, columns> sums_v = {};
  if (resident) {
    tile.load_keys(rows, key, 0);
    if (saved.dy != nullptr) tile.load_values(rows, key, 0);
  }
  const int my_key = warp() * 16 + row_lane() * 4;
  const Share share(shape.row_tiles, blockIdx.z, shape.splits);
  for (int64_t t = share.begin; t < share.end; ++t) {
    const Meeting meeting(p, rows, t, key);
    if (meeting.empty) continue;
    const int count = meeting.count();
    __syncthreads();
    tile.take_rows(rows, meeting.first);
    __syncthreads();
    bool finite = true;
    if (resident) {
      tile.load_queries(0, count);
      if (saved.dy != nullptr) tile.load_dy(0, count);
      Tile::arrive();
      finite = tile.mine_are_finite(tile.queries, tile.depth_of(0), shape.size_vectors) &&
               (saved.dy == nullptr ||
                tile.mine_are_finite(tile.dy, tile.value_depth_of(0), shape.value_vectors));
      finite = __syncthreads_and(finite);
    }
    Pairs s = {};
    Pairs dw = {};
    tile.multiply(rows, key, count, s, dw);
    tile.differentiate(key, meeting.whole, true, s, dw);
    if (!resident) {
      __syncthreads();
      if (has_dk) tile.load_queries(chunk, count);
      if (multiplies_dv) tile.load_dy(chunk, count);
      Tile::arrive();
      finite = (!has_dk ||
                tile.mine_are_finite(tile.queries, tile.depth_of(chunk), shape.size_vectors)) &&
               (!multiplies_dv ||
                tile.mine_are_finite(tile.dy, tile.value_depth_of(chunk), shape.value_vectors));
      finite = __syncthreads_and(finite);
    }
    if (multiplies_dv) {
      tile.put_pairs(s);
      __syncthreads();
      add_over_rows<columns>(tile.pairs + my_key, tile.dy, count, finite, sums_v);
    }
    if (has_dk) {
      __syncthreads();
      tile.put_pairs(dw);
      __syncthreads();
      add_over_rows<columns>(tile.pairs + my_key, tile.queries, count, finite, sums_k);
    }
  }
  if (resident) Tile::arrive();  // where no row has waited
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t mine = key + my_key + i;
    if (mine >= p.keys) continue;
    const int64_t at =
        ((blockIdx.z * p.batch + rows.n) * p.keys + mine) * p.key_heads + rows.key_head;
    if (has_dk) {
      store_row<columns>(sums_k[i], p.scale, tile.depth_of(chunk), shape.size_vectors,
                         dk + at * p.size + chunk * Tile::width);
    }
    if (has_dv) {
      store_row<columns>(sums_v[i], 1.0f, tile.value_depth_of(chunk), shape.value_vectors,
                         dv + at * p.value_size + chunk * Tile::width);
    }
  }
}

// Gradients of a tile of queries.
template <int columns, bool general>
__global__ void __launch_bounds__(backward_threads)
    differentiate_queries(const Problem p, const Saved saved, const BackwardShape shape,
                          const float* row_terms, float* dq) {
  using Tile = PairTile<columns, general>;
  const Tile tile(p, saved, shape, row_terms);
  const int64_t heads = p.batch * p.key_heads;
  const int64_t head = blockIdx.x % heads;
  const Rows rows = Rows::of_key_head(p, head / p.key_heads, head % p.key_heads);
  // Later rows see more keys.
  const int64_t t = shape.row_tiles - 1 - blockIdx.x / heads;
  const int chunk = static_cast<int>(blockIdx.y);
  const bool resident = tile.is_resident();

  Sums<backward_thread_rows, columns> sums = {};
  const int64_t first = t * backward_rows;
  const int64_t last = smaller(first + backward_rows, rows.count) - 1;
  const int count = static_cast<int>(last - first + 1);
  tile.take_rows(rows, first);
  __syncthreads();
  if (resident) {
    tile.load_queries(0, count);
    if (saved.dy != nullptr) tile.load_dy(0, count);
  }
  const Span some = rows.seen_by_some(p, first, last);
  const int64_t first_key = some.begin / tile_keys;
  const int64_t key_tiles = larger<int64_t>(0, ceil_div<int64_t>(some.end, tile_keys) - first_key);
  const Share share(key_tiles, blockIdx.z, shape.splits);
  for (int64_t k = first_key + share.begin; k < first_key + share.end; ++k) {
    const int64_t key = k * tile_keys;
    const Meeting meeting(p, rows, t, key);
    bool finite = true;
    if (resident) {
      __syncthreads();
      tile.load_keys(rows, key, 0);
      if (saved.dy != nullptr) tile.load_values(rows, key, 0);
      Tile::arrive();
      finite =
          __syncthreads_and(tile.mine_are_finite(tile.keys, tile.depth_of(0), shape.size_vectors));
    }
    Pairs s = {};
    Pairs dw = {};
    tile.multiply(rows, key, count, s, dw);
    tile.differentiate(key, meeting.whole, true, s, dw);
    if (!resident) {
      __syncthreads();
      tile.load_keys(rows, key, chunk);
      Tile::arrive();
      finite = __syncthreads_and(
          tile.mine_are_finite(tile.keys, tile.depth_of(chunk), shape.size_vectors));
    }
    // A warp's rows are its own.
    __syncwarp();
    tile.put_pairs(dw);
    __syncwarp();
    add_over_keys<backward_thread_rows, columns>(tile.my_pairs(), tile.keys, finite, sums);
  }
  if (resident) Tile::arrive();
#pragma unroll
  for (int r = 0; r < backward_thread_rows; ++r) {
    const int row = Tile::warp_row() + r * row_lanes;
    if (row >= count) continue;
    const int64_t at = blockIdx.z * p.batch * p.queries * p.heads + tile.rules[row].query_row;
    store_row<columns>(sums[r], p.scale, tile.depth_of(chunk), shape.size_vectors,
                       dq + at * p.size + chunk * Tile::width);
  }
}

}  // namespace lamella::attention::tiles
