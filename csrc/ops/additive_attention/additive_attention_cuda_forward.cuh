// Additive attention forward on the device: a block has 64 queries and goes through the keys that
// they see.
#pragma once

#include "ops/additive_attention/additive_attention_cuda_results.h"
#include "ops/additive_attention/additive_attention_cuda_tiles.cuh"
#include "ops/attention/attention_cuda_forward.cuh"

namespace lamella::additive_attention::tiles {

// y and what is to be kept of the rows; totals may be null.
template <int columns>
__global__ void __launch_bounds__(backward_threads)
    attend_additively(const Problem problem, const BackwardShape shape, float* y,
                      const RowTotals totals) {
  using Tile = AdditiveTile<columns>;
  const attention::Problem& p = problem.pairs;
  const attention::Saved nothing = {};
  const Tile tile(problem, nothing, shape, nullptr, nullptr);
  const Rows rows = Rows::of_head(p, blockIdx.x % p.batch, 0);
  const int64_t t = shape.row_tiles - 1 - blockIdx.x / p.batch;
  const int64_t first = t * backward_rows;
  const int64_t last = smaller(first + backward_rows, rows.count) - 1;
  const int count = static_cast<int>(last - first + 1);
  const int chunk = static_cast<int>(blockIdx.y);
  const int value_width = tile.value_depth_of(chunk);
  find_rules(p, rows, first, backward_rows, tile.rules);

  Sums<backward_thread_rows, columns> o = {};
  float maximum[backward_thread_rows];
  float total[backward_thread_rows];
#pragma unroll
  for (int r = 0; r < backward_thread_rows; ++r) {
    maximum[r] = minus_infinity();
    total[r] = 0.0f;
  }
  const Span some = rows.seen_by_some(p, first, last);
  for (int64_t key = some.begin / tile_keys * tile_keys; key < some.end; key += tile_keys) {
    const Meeting meeting(p, rows, t, key);
    Pairs s = {};
    tile.score(rows, key, count, s);
    tile.load_values(rows, key, chunk);
    lamella::device::copy_commit();
    finish_scores<backward_thread_rows, true>(p, tile.my_rules(), key, meeting.whole, s);
    weigh<backward_thread_rows, columns, true>(p, tile.my_rules(), key, s, maximum, total, o,
                                               tile.my_pairs());
    lamella::device::copy_wait<0>();
    const bool finite =
        __syncthreads_and(tile.mine_are_finite(tile.values, value_width, shape.value_vectors));
    add_over_keys<backward_thread_rows, columns>(tile.my_pairs(), tile.values, finite, o);
  }
  __syncthreads();  // for the rules, where there was no key
#pragma unroll
  for (int r = 0; r < backward_thread_rows; ++r) {
    const float sum = sum_of_key_lanes(total[r]);
    const int row = Tile::warp_row() + r * row_lanes;
    if (row >= count) continue;
    const RowRule& rule = tile.rules[row];
    if (sum == 0.0f) {
#pragma unroll
      for (int c = 0; c < 4 * columns; ++c) o[r][c] = 0.0f;
    }
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    store_row<columns>(o[r], inverse, value_width, shape.value_vectors,
                       y + rule.query_row * p.value_size + chunk * Tile::width);
    if (totals.maximum != nullptr && chunk == 0 && key_lane() == 0) {
      totals.maximum[rule.score_row] = maximum[r];
      totals.inverse[rule.score_row] = inverse;
    }
  }
}

// From the scores once more, now that maxima and sums are known.
template <int columns>
__global__ void __launch_bounds__(backward_threads)
    put_additive_weights(const Problem problem, const BackwardShape shape, const RowTotals totals,
                         float* weights) {
  using Tile = AdditiveTile<columns>;
  const attention::Problem& p = problem.pairs;
  attention::Saved saved = {};
  saved.lse = totals.maximum;
  const Tile tile(problem, saved, shape, totals.maximum, totals.inverse);
  const int64_t tiles = shape.row_tiles * shape.key_tiles;
  const Rows rows = Rows::of_head(p, blockIdx.x / tiles, 0);
  const int64_t t = blockIdx.x % tiles / shape.key_tiles;
  const int64_t key = blockIdx.x % shape.key_tiles * tile_keys;
  const Meeting meeting(p, rows, t, key);
  tile.take_rows(rows, meeting.first);
  __syncthreads();
  Pairs s = {};
  Pairs none = {};
  if (!meeting.empty) {
    tile.score(rows, key, meeting.count(), s);
    tile.differentiate(key, meeting.whole, false, s, none);
  }
  store_pairs(tile, key, meeting.count(), s, weights);
}

template <int columns>
BackwardShape additive_shape(const Problem& problem) {
  return backward_shape<tile_width<columns>>(problem.pairs, problem.pairs.queries);
}

// Memory for the widest tile that is of use.
inline int additive_columns(const Problem& problem) {
  const attention::Problem& p = problem.pairs;
  const std::size_t memory = lamella::device::properties().shared_bytes;
  const int64_t width = larger(p.size, p.value_size);
  if (width > 64 && AdditiveTile<4>::bytes <= memory) return 4;
  return width > 32 && AdditiveTile<2>::bytes <= memory ? 2 : 1;
}

template <int columns>
void forward_of_columns(const Problem& problem, float* y, const RowTotals& totals, float* weights) {
  using Tile = AdditiveTile<columns>;
  const attention::Problem& p = problem.pairs;
  BackwardShape shape = additive_shape<columns>(problem);
  shape.value_vectors = shape.value_vectors && fits_vectors(y, p.value_size);
  lamella::device::launch(p.op,
                          {.grid = dim3(static_cast<unsigned>(shape.row_tiles * p.batch),
                                        static_cast<unsigned>(shape.value_chunks)),
                           .block = dim3(backward_threads),
                           .shared_bytes = Tile::bytes},
                          attend_additively<columns>, problem, shape, y, totals);
  if (weights == nullptr) return;
  const int64_t blocks = p.batch * shape.row_tiles * shape.key_tiles;
  lamella::device::launch(p.op,
                          {.grid = dim3(static_cast<unsigned>(blocks)),
                           .block = dim3(backward_threads),
                           .shared_bytes = Tile::bytes},
                          put_additive_weights<columns>, problem, shape, totals, weights);
}

}  // namespace lamella::additive_attention::tiles
