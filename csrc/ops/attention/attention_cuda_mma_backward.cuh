// Attention backward of 16-bit elements on tensor cores. A block has rows of its own, of keys for
// the gradients of keys and values, of queries for those of queries, and goes through the others
// 64 at a time. Its own are the rows of all products, so that weights and gradients of scores stay
// in registers between the products that make them and those that take them. The next of the others
// come while these are multiplied.
//
// The two kernels make 7 products where 5 are needed, so that each sum is made in one place in a
// fixed order: 7/5 of what tensor cores need for the latter decides.
#pragma once

#include "ops/attention/attention_cuda_mma_forward.cuh"

namespace lamella::attention::tensor {

template <class T>
struct TypedSaved {
  const T* dy;
  const float* lse;        // (N,A,S), in units of log 2
  const float* row_terms;  // D, (N,A,S)
};

constexpr int other_rows = 64;

// Which rows are a block's own.
enum class Own { keys, queries };

// `stages`: tiles of the others that there is memory for, 1 or 2.
template <class T, int size, int row_tiles, Own own, int stages = 2>
struct TensorBackward {
  static constexpr int warp_rows = 16 * row_tiles;
  static constexpr int rows = tensor_threads / 32 * warp_rows;
  static constexpr int tile = other_rows * size;
  // Rules, lse and terms of query rows: the block's own, or those of the others.
  static constexpr int query_rows = own == Own::queries ? rows : stages * other_rows;
  static constexpr std::size_t bytes = query_rows * (sizeof(RowRule) + 2 * sizeof(float)) +
                                       sizeof(Rows) +
                                       (2 * rows * size + 2 * stages * tile) * sizeof(T);
};

// What a row of queries has in shared memory.
struct QueryRows {
  RowRule* rules;
  float* lse;
  float* terms;

  // Rows from `first` on, by the whole block.
  template <class T>
  __device__ void take(const Problem& p, const Rows& rows, const TypedSaved<T>& saved,
                       int64_t first, int count) const {
    for (int r = static_cast<int>(threadIdx.x); r < count; r += tensor_threads) {
      const RowRule rule(p, rows, first + r);
      rules[r] = rule;
      lse[r] = saved.lse[rule.score_row];
      terms[r] = saved.row_terms[rule.score_row];
    }
  }
};

// The weight of a pair, and the gradient of its product, from the product and the weight's
// gradient.
template <bool general>
__device__ inline void differentiate_pair(const Problem& p, const RowRule& rule, float lse,
                                          float term, int64_t key, bool shown, bool plain, float& x,
                                          float& dw) {
  float slope = 1.0f;
  float score = x * (p.scale * log2_e);
  if (!shown && (key < rule.begin || key >= rule.end)) {
    score = minus_infinity();
  } else if constexpr (general) {
    if (!plain) score = change_score(p, rule, key, score, slope);
  }
  const float probability =
      lamella::device::exp2_flushed(score - (lse == minus_infinity() ? 0.0f : lse));
  float weight = probability;
  if constexpr (general) {
    if (p.drops) {
      const bool kept = keeps(p, rule.score_row, key);
      weight = kept ? probability * p.dropout.scale : 0.0f;
      if (!kept) dw = 0.0f;
    }
    dw = weight * dw - probability * term;
    if (p.softcap != 0.0f && dw != 0.0f) dw *= slope;
  } else {
    dw = probability * (dw - term);
  }
  if (probability == 0.0f) dw = 0.0f;
  x = weight;
}

// columns: of the others that are in registers at a time.
template <class T, int size, int row_tiles, int columns, Own own, int stages, bool general>
__global__ void __launch_bounds__(tensor_threads, 2)
    differentiate_on_tensor_cores(const TypedProblem<T> problem, const TypedSaved<T> saved,
                                  const int64_t tiles_of_own, T* dq, T* dk, T* dv) {
  using Tile = TensorBackward<T, size, row_tiles, own, stages>;
  if constexpr (std::is_same_v<T, __nv_bfloat16> && !lamella::device::has_bf16_mma) {
    return;
  } else {
    constexpr bool owns_keys = own == Own::keys;
    const Problem& p = problem.p;
    const QueryRows query_rows = {
        lamella::device::dynamic_shared<RowRule>(),
        reinterpret_cast<float*>(lamella::device::dynamic_shared<RowRule>() + Tile::query_rows),
        reinterpret_cast<float*>(lamella::device::dynamic_shared<RowRule>() + Tile::query_rows) +
            Tile::query_rows};
    T* const own_first = reinterpret_cast<T*>(query_rows.terms + Tile::query_rows);  // K or Q
    T* const own_second = own_first + Tile::rows * size;                             // V or dY
    T* const others = own_second + Tile::rows * size;  // stages of Q or K, then of dY or V

    // Early keys are seen by most rows, late rows see most keys.
    const BlockPlace place(tiles_of_own, p.right != unbounded);
    // In shared memory: registers are short.
    Rows* const shared_rows = reinterpret_cast<Rows*>(others + 2 * stages * Tile::tile);
    if (threadIdx.x == 0) {
      *shared_rows = Rows::of_key_head(p, place.head / p.key_heads, place.head % p.key_heads);
    }
    __syncthreads();
    const Rows& rows = *shared_rows;
    const int64_t own_tile =
        owns_keys && p.right != unbounded ? tiles_of_own - 1 - place.tile : place.tile;
    const int64_t first = own_tile * Tile::rows;
    const int64_t own_count = owns_keys ? p.keys : rows.count;
    const int count = static_cast<int>(smaller<int64_t>(Tile::rows, own_count - first));
    const int width = static_cast<int>(p.size);
    const int value_width = static_cast<int>(p.value_size);
    const auto load_key_rows = [&](int64_t key, int rows_of_tile, T* to, T* to_values) {
      const int valid = static_cast<int>(smaller<int64_t>(rows_of_tile, p.keys - key));
      const int64_t first_row = (rows.n * p.keys + key) * p.key_heads + rows.key_head;
      const int64_t key_stride = p.key_heads * p.size;
      const T* const keys = problem.key + first_row * p.size;
      load_tile<size, tensor_threads>(to, rows_of_tile, valid, width,
                                      [&](int r) { return keys + r * key_stride; });
      const int64_t value_stride = p.key_heads * p.value_size;
      const T* const values = problem.value + first_row * p.value_size;
      load_tile<size, tensor_threads>(to_values, rows_of_tile, valid, value_width,
                                      [&](int r) { return values + r * value_stride; });
    };
    const auto load_query_rows = [&](int64_t row, int rows_of_tile, T* to, T* to_dy) {
      const int valid = static_cast<int>(smaller<int64_t>(rows_of_tile, rows.count - row));
      const auto at = [&](int r) { return rows.query_row(p, rows.place(row + r)); };
      load_tile<size, tensor_threads>(to, rows_of_tile, valid, width,
                                      [&](int r) { return problem.query + at(r) * p.size; });
      load_tile<size, tensor_threads>(to_dy, rows_of_tile, valid, value_width,
                                      [&](int r) { return saved.dy + at(r) * p.value_size; });
    };
    const auto load_others = [&](int64_t at, int stage) {
      T* const to = others + stage * Tile::tile;
      T* const to_second = others + (stages + stage) * Tile::tile;
      if constexpr (owns_keys) {
        load_query_rows(at, other_rows, to, to_second);
        const QueryRows stage_rows = {query_rows.rules + stage * other_rows,
                                      query_rows.lse + stage * other_rows,
                                      query_rows.terms + stage * other_rows};
        stage_rows.take(p, rows, saved, at, other_rows);
      } else {
        load_key_rows(at, other_rows, to, to_second);
      }
      lamella::device::copy_commit();
    };

    // The others that meet one of the own.
    int64_t begin, end;
    if constexpr (owns_keys) {
      // Spans move on with the rows.
      const int64_t tiles = ceil_div<int64_t>(rows.count, other_rows);
      const auto meets = [&](int64_t t) {
        const int64_t last = smaller<int64_t>((t + 1) * other_rows, rows.count) - 1;
        const Span some = rows.seen_by_some(p, t * other_rows, last);
        return some.end > first && some.begin < first + count;
      };
      begin = 0;
      end = tiles;
      while (begin < end && !meets(begin)) ++begin;
      while (begin < end && !meets(end - 1)) --end;
      begin *= other_rows;
      end = smaller(end * other_rows, rows.count);
      load_key_rows(first, Tile::rows, own_first, own_second);
    } else {
      const Span some = rows.seen_by_some(p, first, first + count - 1);
      begin = some.begin / other_rows * other_rows;
      end = some.end;
      query_rows.take(p, rows, saved, first, Tile::rows);
      load_query_rows(first, Tile::rows, own_first, own_second);
    }
    if (begin < end) load_others(begin, 0);

    const int warp_row = warp() * Tile::warp_rows;
    const bool plain = !changes_scores(p);
    Fragments<row_tiles, size> sum_first = {};   // dK or dQ
    Fragments<row_tiles, size> sum_second = {};  // dV
    int stage = 0;
    for (int64_t at = begin; at < end; at += other_rows) {
      const T* const first_others = others + stage * Tile::tile;
      const T* const second_others = others + (stages + stage) * Tile::tile;
      const int64_t first_row = owns_keys ? at : first;
      const int64_t last_row =
          smaller(first_row + (owns_keys ? other_rows : Tile::rows), rows.count) - 1;
      const int64_t first_key = owns_keys ? first : at;
      const int64_t last_key = first_key + (owns_keys ? Tile::rows : other_rows);
      const Span all = rows.seen_by_all(p, first_row, last_row);
      const bool whole = all.begin <= first_key && all.end >= last_key &&
                         last_row - first_row + 1 == (owns_keys ? other_rows : Tile::rows);
      lamella::device::copy_wait<0>();
      bool finite = true;
      if (whole && p.mask == nullptr && p.bias == nullptr) {
        __syncthreads();
      } else {
        finite = copied_tile_is_finite<size, tensor_threads>(first_others, other_rows);
        if (owns_keys) {
          finite = finite && copied_tile_is_finite<size, tensor_threads>(second_others, other_rows);
        }
        finite = __syncthreads_and(finite);
      }
      if (stages == 2 && at + other_rows < end) load_others(at + other_rows, stage ^ 1);

#pragma unroll 1
      for (int column = 0; column < other_rows; column += columns) {
        Fragments<row_tiles, columns> s = {};
        Fragments<row_tiles, columns> dw = {};
        add_dots<size, row_tiles, columns>(own_first, warp_row, first_others, column, s);
        add_dots<size, row_tiles, columns>(own_second, warp_row, second_others, column, dw);
#pragma unroll
        for (int m = 0; m < row_tiles; ++m) {
#pragma unroll
          for (int j = 0; j < columns / 8; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const int mine = warp_row + 16 * m + 8 * (i / 2) + group();
              const int other = column + 8 * j + 2 * pair() + i % 2;
              const int row = owns_keys ? stage * other_rows + other : mine;
              const int64_t key = owns_keys ? first + mine : at + other;
              differentiate_pair<general>(p, query_rows.rules[row], query_rows.lse[row],
                                          query_rows.terms[row], key, whole, plain, s[m][j][i],
                                          dw[m][j][i]);
            }
          }
        }
        if constexpr (owns_keys) {
          add_product<size, row_tiles, columns>(s, second_others, column, finite, sum_second);
        }
        add_product<size, row_tiles, columns>(dw, first_others, column, finite, sum_first);
      }
      if constexpr (stages == 2) {
        stage ^= 1;
      } else {
        __syncthreads();
        if (at + other_rows < end) load_others(at + other_rows, 0);
      }
    }
    lamella::device::copy_wait<0>();
    __syncthreads();  // for the rules, where nothing was met

#pragma unroll
    for (int m = 0; m < row_tiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int mine = warp_row + 16 * m + 8 * half + group();
        if (mine >= count) continue;
        if constexpr (owns_keys) {
          const int64_t at = (rows.n * p.keys + first + mine) * p.key_heads + rows.key_head;
          if (dk != nullptr) {
            store_fragment_row<size>(sum_first[m], half, p.scale, width, dk + at * p.size);
          }
          if (dv != nullptr) {
            store_fragment_row<size>(sum_second[m], half, 1.0f, value_width,
                                     dv + at * p.value_size);
          }
        } else if (dq != nullptr) {
          store_fragment_row<size>(sum_first[m], half, p.scale, width,
                                   dq + query_rows.rules[mine].query_row * p.size);
        }
      }
    }
  }
}

// D of each row of (N,A,S), a warp each: dy . y - dlse, where a y of 0 counts for nothing. Reads
// decide.
template <class T>
__global__ void __launch_bounds__(tensor_threads)
    take_typed_row_terms(const Problem p, const T* y, const T* dy, const float* dlse,
                         float* terms) {
  const int64_t row = int64_t{blockIdx.x} * (tensor_threads / 32) + warp();
  if (row >= p.batch * p.heads * p.queries) return;
  const int64_t head = row / p.queries;
  const int64_t at =
      ((head / p.heads * p.queries + row % p.queries) * p.heads + head % p.heads) * p.value_size;
  float sum = 0.0f;
  for (int64_t e = lane(); e < p.value_size; e += 32) {
    const float value = to_float(y[at + e]);
    if (value != 0.0f) sum = fmaf(to_float(dy[at + e]), value, sum);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(all_lanes, sum, step);
  if (lane() != 0) return;
  if (dlse != nullptr) sum -= dlse[row];
  terms[row] = sum;
}

}  // namespace lamella::attention::tensor
