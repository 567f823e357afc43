// Attention of small heads on the device, up to 16 elements: a thread has a row of its own, of
// queries or in backward of keys, with all that it sums up in registers, and goes through the
// others, which all threads of a warp read at the same address of shared memory. No lane is idle
// and no pair is handed over. FMAs and what is around the exponential share the time.
#pragma once

#include "ops/attention/attention_cuda_backward.cuh"

namespace lamella::attention::small {

using namespace tiles;

constexpr int threads = 128;
constexpr int other_rows = 64;
// Keys whose exponentials share a maximum.
constexpr int together = 8;

template <int width>
using Vector = float[width];

template <int width>
__device__ inline void take(const float* from, int size, bool vectors, Vector<width>& x) {
  if (vectors) {
#pragma unroll
    for (int e = 0; e < width; e += 4) {
      const float4 v = e < size ? load4(from + e) : float4{0.0f, 0.0f, 0.0f, 0.0f};
      x[e] = v.x;
      x[e + 1] = v.y;
      x[e + 2] = v.z;
      x[e + 3] = v.w;
    }
    return;
  }
#pragma unroll
  for (int e = 0; e < width; ++e) x[e] = e < size ? from[e] : 0.0f;
}

template <int width>
__device__ inline void put(const Vector<width>& x, float factor, int size, bool vectors,
                           float* to) {
  if (vectors) {
#pragma unroll
    for (int e = 0; e < width; e += 4) {
      if (e < size) {
        *reinterpret_cast<float4*>(to + e) =
            float4{x[e] * factor, x[e + 1] * factor, x[e + 2] * factor, x[e + 3] * factor};
      }
    }
    return;
  }
#pragma unroll
  for (int e = 0; e < width; ++e) {
    if (e < size) to[e] = x[e] * factor;
  }
}

template <int width>
__device__ inline float dot(const Vector<width>& x, const float* y) {
  float sum = 0.0f;
#pragma unroll
  for (int e = 0; e < width; e += 4) {
    const float4 v = load4(y + e);
    sum = fmaf(x[e], v.x, sum);
    sum = fmaf(x[e + 1], v.y, sum);
    sum = fmaf(x[e + 2], v.z, sum);
    sum = fmaf(x[e + 3], v.w, sum);
  }
  return sum;
}

// sums += w y; `finite`: y is, or a w of 0 meets nothing of it.
template <int width>
__device__ inline void add(float w, const float* y, bool finite, Vector<width>& sums) {
  if (!finite && w == 0.0f) return;
#pragma unroll
  for (int e = 0; e < width; e += 4) {
    const float4 v = load4(y + e);
    sums[e] = fmaf(w, v.x, sums[e]);
    sums[e + 1] = fmaf(w, v.y, sums[e + 1]);
    sums[e + 2] = fmaf(w, v.z, sums[e + 2]);
    sums[e + 3] = fmaf(w, v.w, sums[e + 3]);
  }
}

struct SmallShape {
  int64_t tiles;  // of rows that are the block's own, of a head
  bool last_first;
  bool size_vectors, value_vectors;
};

// The others' rows, `width` floats each, with zeros at the end.
template <int width, class Row>
__device__ inline void load_small(float* to, int valid, int size, bool vectors, const Row& row_at) {
  constexpr int unit = 4;
  const int thread = static_cast<int>(threadIdx.x);
  if (vectors) {
    for (int i = thread; i < other_rows * width / unit; i += threads) {
      const int r = i / (width / unit);
      const int e = i % (width / unit) * unit;
      const bool inside = r < valid && e < size;
      lamella::device::copy_async<16>(to + r * width + e,
                                      row_at(r < valid ? r : 0) + (inside ? e : 0), inside);
    }
    return;
  }
  for (int i = thread; i < other_rows * width; i += threads) {
    const int r = i / width;
    const int e = i % width;
    const bool inside = r < valid && e < size;
    lamella::device::copy_async<4>(to + i, row_at(r < valid ? r : 0) + (inside ? e : 0), inside);
  }
}

// Of what all threads have copied, all of which meet.
template <int width>
__device__ inline bool all_finite(const float* tile, const float* other_tile) {
  float test = 0.0f;
  for (int i = static_cast<int>(threadIdx.x); i < other_rows * width; i += threads) {
    test = fmaf(tile[i], 0.0f, test);
    if (other_tile != nullptr) test = fmaf(other_tile[i], 0.0f, test);
  }
  return __syncthreads_and(test == 0.0f);
}

__device__ inline int arrive_rows(int64_t rows, int64_t first) {
  lamella::device::copy_commit();
  lamella::device::copy_wait<0>();
  __syncthreads();
  return static_cast<int>(smaller<int64_t>(other_rows, rows - first));
}

// Bit j: dropout keeps key key + j of `together`, key a multiple of 4.
__device__ inline unsigned kept_of(const Problem& p, int64_t score_row, int64_t key) {
  const auto counter = static_cast<std::uint64_t>(score_row * p.dropout_row() + key) / 4;
  unsigned kept = 0;
#pragma unroll
  for (int i = 0; i < together; i += 4) {
    const Philox4 words = philox(p.dropout.seed, counter + static_cast<std::uint64_t>(i / 4));
#pragma unroll
    for (int j = 0; j < 4; ++j) kept |= (words.word[j] < p.dropout.threshold ? 1u : 0u) << (i + j);
  }
  return kept;
}

template <bool general>
__device__ inline float score_of(const Problem& p, const RowRule& rule, int64_t key, float x,
                                 float& slope) {
  if (key < rule.begin || key >= rule.end) return minus_infinity();
  if constexpr (general) x = change_score(p, rule, key, x, slope);
  return x;
}

// Keys and values of one tile for a block whose own rows are queries.
struct KeyTile {
  float* keys;
  float* values;

  template <int width>
  __device__ void load(const Problem& p, const Rows& rows, const SmallShape& shape,
                       int64_t key) const {
    const int valid = static_cast<int>(smaller<int64_t>(other_rows, p.keys - key));
    const int64_t first = (rows.n * p.keys + key) * p.key_heads + rows.key_head;
    const float* const from = p.key + first * p.size;
    load_small<width>(keys, valid, static_cast<int>(p.size), shape.size_vectors,
                      [&](int r) { return from + r * p.key_heads * p.size; });
    const float* const from_values = p.value + first * p.value_size;
    load_small<width>(values, valid, static_cast<int>(p.value_size), shape.value_vectors,
                      [&](int r) { return from_values + r * p.key_heads * p.value_size; });
  }
};

// A block's place, and its thread's row.
struct OwnRow {
  Rows rows;
  int64_t first, last, mine;

  __device__ OwnRow(const Problem& p, const SmallShape& shape, bool keys)
      : rows(Rows::of_key_head(p, 0, 0)) {
    const int64_t heads = gridDim.x / shape.tiles;
    int64_t tile = blockIdx.x / heads;
    if (shape.last_first) tile = shape.tiles - 1 - tile;
    const int64_t head = blockIdx.x % heads;
    rows = Rows::of_key_head(p, head / p.key_heads, head % p.key_heads);
    first = tile * threads;
    last = smaller<int64_t>(first + threads, keys ? p.keys : rows.count) - 1;
    mine = first + threadIdx.x;
  }
};

template <int width, bool general>
__global__ void __launch_bounds__(threads)
    attend(const Problem p, const Results out, const SmallShape shape) {
  __shared__ __align__(16) float keys[other_rows * width];
  __shared__ __align__(16) float values[other_rows * width];
  const OwnRow own(p, shape, false);
  const RowRule rule(p, own.rows, own.mine);
  const float factor = p.scale * log2_e;
  const bool changes = general && changes_scores(p);
  Vector<width> q;
  take<width>(p.query + rule.query_row * p.size, static_cast<int>(p.size), shape.size_vectors, q);
  Vector<width> o = {};
  float maximum = minus_infinity();
  float total = 0.0f;
  const Span some = own.rows.seen_by_some(p, own.first, own.last);
  for (int64_t key = some.begin / other_rows * other_rows; key < some.end; key += other_rows) {
    __syncthreads();
    KeyTile{keys, values}.load<width>(p, own.rows, shape, key);
    arrive_rows(p.keys, key);
    const bool finite = all_finite<width>(values, nullptr);
    for (int j = 0; j < other_rows; j += together) {
      if (key + j >= rule.end || key + j + together <= rule.begin) continue;
      float s[together];
#pragma unroll
      for (int i = 0; i < together; ++i) s[i] = dot<width>(q, keys + (j + i) * width) * factor;
      if (changes || key + j < rule.begin || key + j + together > rule.end) {
        float slope;
#pragma unroll
        for (int i = 0; i < together; ++i) {
          s[i] = score_of<general>(p, rule, key + j + i, s[i], slope);
        }
      }
      float largest = s[0];
#pragma unroll
      for (int i = 1; i < together; ++i) largest = fmaxf(largest, s[i]);
      const float before = maximum;
      maximum = fmaxf(before, largest);
      const float base = maximum == minus_infinity() ? 0.0f : maximum;
      if (maximum != before) {
        const float shrink = exp2f(before - base);
        total *= shrink;
#pragma unroll
        for (int e = 0; e < width; ++e) o[e] = shrink == 0.0f ? 0.0f : o[e] * shrink;
      }
      unsigned kept = 0xFFu;
      if constexpr (general) {
        if (p.drops) kept = kept_of(p, rule.score_row, key + j);
      }
#pragma unroll
      for (int i = 0; i < together; ++i) {
        const float e = exp2f(s[i] - base);
        total += e;
        float weight = e;
        if constexpr (general) {
          if (p.drops) weight = (kept >> i & 1) != 0 ? e * p.dropout.scale : 0.0f;
        }
        add<width>(weight, values + (j + i) * width, finite, o);
      }
    }
  }
  if (own.mine > own.last) return;
  if (total == 0.0f) {
#pragma unroll
    for (int e = 0; e < width; ++e) o[e] = 0.0f;
  }
  put<width>(o, total == 0.0f ? 0.0f : 1.0f / total, static_cast<int>(p.value_size),
             shape.value_vectors, out.y + rule.query_row * p.value_size);
  out.lse[rule.score_row] = total == 0.0f ? minus_infinity() : maximum + log2_e * logf(total);
}

// The weight of a pair in place of its product, and the gradient of the score in place of that of
// the weight; `keeps` is whether dropout does.
template <bool general>
__device__ inline void differentiate_pair(const Problem& p, const Saved& saved, const RowRule& rule,
                                          float base, float term, int64_t key, bool keeps, float& x,
                                          float& dw) {
  float slope = 1.0f;
  const float score = score_of<general>(p, rule, key, x * (p.scale * log2_e), slope);
  const float probability = exp2f(score - base);
  float weight = probability;
  if constexpr (general) {
    if (saved.dweights != nullptr && probability != 0.0f) {
      dw += saved.dweights[rule.score_row * p.keys + key];
    }
    if (p.drops) {
      weight = keeps ? probability * p.dropout.scale : 0.0f;
      if (!keeps) dw = 0.0f;
    }
    dw = weight * dw - probability * term;
    if (p.softcap != 0.0f && dw != 0.0f) dw *= slope;
  } else {
    dw = probability * (dw - term);
  }
  if (probability == 0.0f) dw = 0.0f;
  x = weight;
}

template <int width, bool general>
__global__ void __launch_bounds__(threads)
    differentiate_queries(const Problem p, const Saved saved, const SmallShape shape,
                          const float* row_terms, float* dq) {
  __shared__ __align__(16) float keys[other_rows * width];
  __shared__ __align__(16) float values[other_rows * width];
  const OwnRow own(p, shape, false);
  const RowRule rule(p, own.rows, own.mine);
  const float lse = saved.lse[rule.score_row];
  const float base = lse == minus_infinity() ? 0.0f : lse;
  const float term = row_terms[rule.score_row];
  const int size = static_cast<int>(p.size);
  const int value_size = static_cast<int>(p.value_size);
  Vector<width> q;
  Vector<width> dy = {};
  Vector<width> sums = {};
  take<width>(p.query + rule.query_row * p.size, size, shape.size_vectors, q);
  if (saved.dy != nullptr) {
    take<width>(saved.dy + rule.query_row * p.value_size, value_size, shape.value_vectors, dy);
  }
  const Span some = own.rows.seen_by_some(p, own.first, own.last);
  for (int64_t key = some.begin / other_rows * other_rows; key < some.end; key += other_rows) {
    __syncthreads();
    KeyTile{keys, values}.load<width>(p, own.rows, shape, key);
    arrive_rows(p.keys, key);
    const bool finite = all_finite<width>(keys, nullptr);
    for (int j = 0; j < other_rows; j += together) {
      if (key + j >= rule.end || key + j + together <= rule.begin) continue;
      unsigned kept = 0xFFu;
      if constexpr (general) {
        if (p.drops) kept = kept_of(p, rule.score_row, key + j);
      }
#pragma unroll
      for (int i = 0; i < together; ++i) {
        float x = dot<width>(q, keys + (j + i) * width);
        float dw = saved.dy == nullptr ? 0.0f : dot<width>(dy, values + (j + i) * width);
        differentiate_pair<general>(p, saved, rule, base, term, key + j + i, (kept >> i & 1) != 0,
                                    x, dw);
        add<width>(dw, keys + (j + i) * width, finite, sums);
      }
    }
  }
  if (own.mine > own.last) return;
  put<width>(sums, p.scale, size, shape.size_vectors, dq + rule.query_row * p.size);
}

template <int width, bool general>
__global__ void __launch_bounds__(threads)
    differentiate_keys(const Problem p, const Saved saved, const SmallShape shape,
                       const float* row_terms, float* dk, float* dv) {
  __shared__ __align__(16) float queries[other_rows * width];
  __shared__ __align__(16) float dy[other_rows * width];
  __shared__ __align__(16) unsigned char memory[other_rows * sizeof(RowRule)];
  __shared__ float bases[other_rows];
  __shared__ float terms[other_rows];
  RowRule* const rules = reinterpret_cast<RowRule*>(memory);
  const OwnRow own(p, shape, true);
  const int size = static_cast<int>(p.size);
  const int value_size = static_cast<int>(p.value_size);
  const int64_t mine = smaller(own.mine, p.keys - 1);
  const int64_t at = (own.rows.n * p.keys + mine) * p.key_heads + own.rows.key_head;
  Vector<width> k, v;
  Vector<width> sums_k = {};
  Vector<width> sums_v = {};
  take<width>(p.key + at * p.size, size, shape.size_vectors, k);
  take<width>(p.value + at * p.value_size, value_size, shape.value_vectors, v);
  for (int64_t row = 0; row < own.rows.count; row += other_rows) {
    const int64_t last_row = smaller<int64_t>(row + other_rows, own.rows.count) - 1;
    const Span some = own.rows.seen_by_some(p, row, last_row);
    if (some.end <= own.first || some.begin > own.last) continue;
    const int count = static_cast<int>(last_row - row + 1);
    __syncthreads();
    for (int r = static_cast<int>(threadIdx.x); r < other_rows; r += threads) {
      const RowRule rule(p, own.rows, row + r);
      const float lse = saved.lse[rule.score_row];
      rules[r] = rule;
      bases[r] = lse == minus_infinity() ? 0.0f : lse;
      terms[r] = row_terms[rule.score_row];
    }
    __syncthreads();
    load_small<width>(queries, count, size, shape.size_vectors,
                      [&](int r) { return p.query + rules[r].query_row * p.size; });
    if (saved.dy != nullptr) {
      load_small<width>(dy, count, value_size, shape.value_vectors,
                        [&](int r) { return saved.dy + rules[r].query_row * p.value_size; });
    }
    arrive_rows(own.rows.count, row);
    const bool finite = all_finite<width>(queries, saved.dy == nullptr ? nullptr : dy);
    for (int r = 0; r < count; ++r) {
      const RowRule& rule = rules[r];
      float x = dot<width>(k, queries + r * width);
      float dw = saved.dy == nullptr ? 0.0f : dot<width>(v, dy + r * width);
      bool keeps = true;
      if constexpr (general) {
        if (p.drops) {
          const auto word = static_cast<std::uint64_t>(rule.score_row * p.dropout_row() + mine);
          const Philox4 words = philox(p.dropout.seed, word / 4);
          const std::uint32_t low = (word & 1) != 0 ? words.word[1] : words.word[0];
          const std::uint32_t high = (word & 1) != 0 ? words.word[3] : words.word[2];
          keeps = ((word & 2) != 0 ? high : low) < p.dropout.threshold;
        }
      }
      differentiate_pair<general>(p, saved, rule, bases[r], terms[r], mine, keeps, x, dw);
      if (saved.dy != nullptr) add<width>(x, dy + r * width, finite, sums_v);
      add<width>(dw, queries + r * width, finite, sums_k);
    }
  }
  if (own.mine > own.last) return;
  if (dk != nullptr) put<width>(sums_k, p.scale, size, shape.size_vectors, dk + at * p.size);
  if (dv != nullptr) {
    put<width>(sums_v, 1.0f, value_size, shape.value_vectors, dv + at * p.value_size);
  }
}

}  // namespace lamella::attention::small
