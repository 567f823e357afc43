// Attention forward of 16-bit elements on tensor cores, for heads of up to 128 elements in
// multiples of 8: a block of 4 warps has 64 or 128 rows and goes through tiles of 64 keys. Scores
// and weights stay in registers, where the accumulator of the first product has the layout that the
// second one takes. Keys and values of the next tile come while this one is multiplied.
//
// Tensor cores decide at 128 elements: 2 row tiles a warp share each fragment of keys and values,
// 4 products for each 16-byte read of a lane. At 64 the exponentials are close behind: one
// instruction each, with the scale folded into the FMA before it. Sums are made relative to an
// older maximum until that is off by 2^8, so that they are rarely scaled again.
#pragma once

#include "ops/attention/attention_cuda_forward.cuh"
#include "ops/attention/attention_cuda_mma.cuh"

namespace lamella::attention::tensor {

template <class T>
struct TypedResults {
  T* y;
  float* lse;  // in units of log 2
};

constexpr int tensor_threads = 128;
constexpr float most_growth = 8.0f;

// What a block goes by on its way through the keys, in shared memory: registers are short.
template <class T>
struct Walk {
  const T* keys;
  const T* values;
  int64_t key_stride, value_stride;
  Span some, all;  // that one of the rows sees, that all of them see
};

template <class T, int size, int row_tiles>
struct TensorForward {
  static constexpr int warp_rows = 16 * row_tiles;
  static constexpr int rows = tensor_threads / 32 * warp_rows;
  static constexpr int tile = tile_keys * size;
  static constexpr std::size_t bytes =
      sizeof(Walk<T>) + rows * sizeof(RowRule) + (rows * size + 4 * tile) * sizeof(T);
};

// Scores from products: rows of the thread have rules 0 and 8 of each row tile. Returns what they
// are still to be multiplied with.
template <int row_tiles, bool general>
__device__ inline float finish_fragments(const Problem& p, const RowRule* rules, int64_t key,
                                         bool whole, Fragments<row_tiles, tile_keys>& s) {
  const float factor = p.scale * log2_e;
  const bool changes = general && changes_scores(p);
  if (!changes && factor > 0.0f && whole) return factor;
  const bool folds = !changes && factor > 0.0f;
#pragma unroll
  for (int m = 0; m < row_tiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const RowRule& rule = rules[16 * m + 8 * half];
      const int begin = rule.begin_in(key);
      const int end = rule.end_in(key);
#pragma unroll
      for (int j = 0; j < tile_keys / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int c = 8 * j + 2 * pair() + i;
          float& x = s[m][j][2 * half + i];
          float slope;
          if (c < begin || c >= end) {
            x = minus_infinity();
          } else if constexpr (general) {
            x = folds ? x : change_score(p, rule, key + c, x * factor, slope);
          } else {
            x = folds ? x : x * factor;
          }
        }
      }
    }
  }
  return folds ? factor : 1.0f;
}

template <class T, int size, int row_tiles, bool general>
__global__ void __launch_bounds__(tensor_threads, row_tiles == 2 ? 2 : 1)
    attend_on_tensor_cores(const TypedProblem<T> problem, const TypedResults<T> out,
                           const int64_t tiles_of_rows) {
  using Tile = TensorForward<T, size, row_tiles>;
  if constexpr (std::is_same_v<T, __nv_bfloat16> && !lamella::device::has_bf16_mma) {
    return;
  } else {
    const Problem& p = problem.p;
    RowRule* const rules = lamella::device::dynamic_shared<RowRule>();
    T* const queries = reinterpret_cast<T*>(rules + Tile::rows);
    T* const tiles_of_keys = queries + Tile::rows * size;  // two, then two of values
    Walk<T>* const walk = reinterpret_cast<Walk<T>*>(tiles_of_keys + 4 * Tile::tile);
    const BlockPlace place(tiles_of_rows, p.right != unbounded);
    const int64_t first = place.tile * Tile::rows;
    const int width = static_cast<int>(p.size);
    const int value_width = static_cast<int>(p.value_size);
    int count;
    {
      const Rows rows = Rows::of_key_head(p, place.head / p.key_heads, place.head % p.key_heads);
      const int64_t last = smaller<int64_t>(first + Tile::rows, rows.count) - 1;
      count = static_cast<int>(last - first + 1);
      find_rules(p, rows, first, Tile::rows, rules);
      if (threadIdx.x == 0) {
        const int64_t key_row = rows.n * p.keys * p.key_heads + rows.key_head;
        *walk = {problem.key + key_row * p.size,
                 problem.value + key_row * p.value_size,
                 p.key_heads * p.size,
                 p.key_heads * p.value_size,
                 rows.seen_by_some(p, first, last),
                 rows.seen_by_all(p, first, last)};
      }
      __syncthreads();
    }
    const auto load_keys_and_values = [&](int64_t key, int stage) {
      const int valid = static_cast<int>(smaller<int64_t>(tile_keys, p.keys - key));
      const int64_t key_stride = walk->key_stride;
      const T* const keys = walk->keys + key * key_stride;
      load_tile<size, tensor_threads>(tiles_of_keys + stage * Tile::tile, tile_keys, valid, width,
                                      [&](int r) { return keys + r * key_stride; });
      const int64_t value_stride = walk->value_stride;
      const T* const values = walk->values + key * value_stride;
      load_tile<size, tensor_threads>(tiles_of_keys + (2 + stage) * Tile::tile, tile_keys, valid,
                                      value_width,
                                      [&](int r) { return values + r * value_stride; });
      lamella::device::copy_commit();
    };

    const int warp_row = warp() * Tile::warp_rows;
    const RowRule* const my_rules = rules + warp_row + group();
    Fragments<row_tiles, size> o = {};
    float maximum[row_tiles][2];
    float total[row_tiles][2] = {};
#pragma unroll
    for (int m = 0; m < row_tiles; ++m) maximum[m][0] = maximum[m][1] = minus_infinity();

    int64_t key = walk->some.begin / tile_keys * tile_keys;
    if (key < walk->some.end) {
      load_tile<size, tensor_threads>(queries, Tile::rows, count, width, [&](int r) {
        return problem.query + rules[r].query_row * p.size;
      });
      load_keys_and_values(key, 0);
    }
    for (int stage = 0; key < walk->some.end; key += tile_keys, stage ^= 1) {
      const T* const tile_of_keys = tiles_of_keys + stage * Tile::tile;
      const T* const tile_of_values = tiles_of_keys + (2 + stage) * Tile::tile;
      const bool whole =
          key >= walk->all.begin && key + tile_keys <= walk->all.end && count == Tile::rows;
      lamella::device::copy_wait<0>();
      bool finite = true;
      if (whole && p.mask == nullptr && p.bias == nullptr) {
        __syncthreads();
      } else {
        finite = __syncthreads_and(
            copied_tile_is_finite<size, tensor_threads>(tile_of_values, tile_keys));
      }
      if (key + tile_keys < walk->some.end) load_keys_and_values(key + tile_keys, stage ^ 1);

      Fragments<row_tiles, tile_keys> s = {};
      add_dots<size, row_tiles, tile_keys>(queries, warp_row, tile_of_keys, 0, s);
      const float rest = finish_fragments<row_tiles, general>(p, my_rules, key, whole, s);
#pragma unroll
      for (int m = 0; m < row_tiles; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float largest = s[m][0][2 * half];
#pragma unroll
          for (int j = 0; j < tile_keys / 8; ++j) {
            largest = fmaxf(largest, fmaxf(s[m][j][2 * half], s[m][j][2 * half + 1]));
          }
          largest = fmaxf(largest, __shfl_xor_sync(all_lanes, largest, 1));
          largest = rest * fmaxf(largest, __shfl_xor_sync(all_lanes, largest, 2));
          const float before = maximum[m][half];
          const bool grows = largest > before + most_growth || before == minus_infinity();
          const float now = grows ? fmaxf(largest, before) : before;
          maximum[m][half] = now;
          const float base = now == minus_infinity() ? 0.0f : now;
          float sum = 0.0f;
#pragma unroll
          for (int j = 0; j < tile_keys / 8; ++j) {
            unsigned kept = 3;
            if constexpr (general) {
              if (p.drops) {
                kept =
                    kept_pair(p, my_rules[16 * m + 8 * half].score_row, key + 8 * j + 2 * pair());
              }
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              float& x = s[m][j][2 * half + i];
              const float e = lamella::device::exp2_flushed(fmaf(x, rest, -base));
              sum += e;
              x = e;
              if constexpr (general) {
                if (p.drops) x = (kept >> i & 1) != 0 ? e * p.dropout.scale : 0.0f;
              }
            }
          }
          const float shrink = grows ? lamella::device::exp2_flushed(before - base) : 1.0f;
          total[m][half] = total[m][half] * shrink + sum;
          if (__any_sync(all_lanes, shrink != 1.0f)) {
#pragma unroll
            for (int j = 0; j < size / 8; ++j) {
#pragma unroll
              for (int i = 0; i < 2; ++i) {
                float& x = o[m][j][2 * half + i];
                x = shrink == 0.0f ? 0.0f : x * shrink;
              }
            }
          }
        }
      }
      add_product<size, row_tiles, tile_keys>(s, tile_of_values, 0, finite, o);
    }

#pragma unroll
    for (int m = 0; m < row_tiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum = total[m][half];
        sum += __shfl_xor_sync(all_lanes, sum, 1);
        sum += __shfl_xor_sync(all_lanes, sum, 2);
        if (warp_row + 16 * m + 8 * half + group() >= count) continue;
        const RowRule& rule = my_rules[16 * m + 8 * half];
        if (sum == 0.0f) {
#pragma unroll
          for (int j = 0; j < size / 8; ++j) o[m][j][2 * half] = o[m][j][2 * half + 1] = 0.0f;
        }
        store_fragment_row<size>(o[m], half, sum == 0.0f ? 0.0f : 1.0f / sum, value_width,
                                 out.y + rule.query_row * p.value_size);
        if (pair() == 0) {
          out.lse[rule.score_row] =
              sum == 0.0f ? minus_infinity() : maximum[m][half] + log2_e * logf(sum);
        }
      }
    }
  }
}

}  // namespace lamella::attention::tensor
