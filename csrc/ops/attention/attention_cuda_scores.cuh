// What the device kernels of attention share: which rows meet the keys of a head, where a thread's
// pairs lie in a tile, and what happens to a score between product and exponential. Scores are in
// units of log 2.
//
// A warp has 4 lanes of rows by 8 lanes of keys. Lanes next to each other, or two apart, read the
// same address in either direction, which is what lets 16-byte reads of shared memory merge.
#pragma once

#include "core/philox.h"
#include "cuda/kernel.cuh"
#include "ops/attention/attention.h"

namespace lamella::attention::tiles {

using lamella::device::all_lanes;
using lamella::device::ceil_div;
using lamella::device::larger;
using lamella::device::smaller;
using std::int64_t;

constexpr float log2_e = 1.44269504f;
constexpr float ln_2 = 0.693147181f;

// Keys of a tile, and the floats of its row of pairs: 4 rows lie in 4 different groups of 8 banks.
constexpr int tile_keys = 64;
constexpr int pair_stride = tile_keys + 8;
constexpr int key_lanes = 8;
constexpr int row_lanes = 4;
// Keys of a tile that belong to a thread: key_lane() + 8 j.
constexpr int thread_keys = tile_keys / key_lanes;

__device__ inline int lane() {
  return static_cast<int>(threadIdx.x) % 32;
}
__device__ inline int warp() {
  return static_cast<int>(threadIdx.x) / 32;
}
__device__ inline int row_lane() {
  return (lane() & 1) | (lane() >> 4) << 1;
}
__device__ inline int key_lane() {
  return lane() >> 1 & 7;
}

__device__ inline float minus_infinity() {
  return __int_as_float(static_cast<int>(0xFF800000u));
}

// Of the 8 lanes of keys, all of which get the same.
__device__ inline float max_of_key_lanes(float v) {
#pragma unroll
  for (int step = 2; step <= 8; step *= 2) v = fmaxf(v, __shfl_xor_sync(all_lanes, v, step));
  return v;
}
__device__ inline float sum_of_key_lanes(float v) {
#pragma unroll
  for (int step = 2; step <= 8; step *= 2) v += __shfl_xor_sync(all_lanes, v, step);
  return v;
}

// [begin, end) of keys.
struct Span {
  int64_t begin, end;
};

// The rows that meet the keys of one head: the queries of `group` heads from `first_head` on, query
// by query.
struct Rows {
  int64_t n, key_head, first_head, group, count, offset, length;

  struct Place {
    int64_t query, head;
  };

  // Of the whole group of a key head.
  __device__ static Rows of_key_head(const Problem& p, int64_t n, int64_t key_head) {
    const int64_t group = p.heads / p.key_heads;
    return make(p, n, key_head, key_head * group, group);
  }
  // Of one head of the query.
  __device__ static Rows of_head(const Problem& p, int64_t n, int64_t head) {
    return make(p, n, head / (p.heads / p.key_heads), head, 1);
  }

  __device__ Place place(int64_t row) const {
    if (group == 1) return {row, first_head};
    if (row >> 32 == 0) {
      const unsigned query = static_cast<unsigned>(row) / static_cast<unsigned>(group);
      return {query, first_head + row - query * group};
    }
    return {row / group, first_head + row % group};
  }

  // The keys that position and length let a query see.
  __device__ Span seen_by(const Problem& p, int64_t query) const {
    const int64_t at = query + offset;
    return {larger<int64_t>(0, at - p.left), smaller(length, at + p.right + 1)};
  }
  // What one of the rows [first, last] sees, and what all of them see: spans move on with the rows.
  __device__ Span seen_by_some(const Problem& p, int64_t first, int64_t last) const {
    return {seen_by(p, place(first).query).begin, seen_by(p, place(last).query).end};
  }
  __device__ Span seen_by_all(const Problem& p, int64_t first, int64_t last) const {
    return {seen_by(p, place(last).query).begin, seen_by(p, place(first).query).end};
  }

  // Of (N,S,A), and of (N,A,S).
  __device__ int64_t query_row(const Problem& p, const Place& at) const {
    return (n * p.queries + at.query) * p.heads + at.head;
  }
  __device__ int64_t score_row(const Problem& p, const Place& at) const {
    return (n * p.heads + at.head) * p.queries + at.query;
  }

 private:
  __device__ static Rows make(const Problem& p, int64_t n, int64_t key_head, int64_t first_head,
                              int64_t group) {
    return {n,
            key_head,
            first_head,
            group,
            p.queries * group,
            p.query_offsets == nullptr ? p.offset : p.query_offsets[n],
            p.key_lengths == nullptr ? p.keys : p.key_lengths[n]};
  }
};

// Whether scores are more than products times a factor, but for what position and length hide.
constexpr bool changes_scores(const Problem& p) {
  return p.mask != nullptr || p.bias != nullptr || p.alibi_slopes != nullptr || p.softcap != 0.0f;
}

// What a row's scores need, kept in shared memory: found once a block.
struct RowRule {
  int64_t begin, end;  // of the keys that position and length let the row see
  int64_t mask_at, bias_at, distance;
  int64_t score_row;
  int64_t query_row;
  float alibi;

  __device__ RowRule(const Problem& p, const Rows& rows, int64_t row) {
    const bool real = row < rows.count;
    const Rows::Place at = rows.place(real ? row : rows.count - 1);
    const Span seen = rows.seen_by(p, at.query);
    begin = seen.begin;
    end = real ? seen.end : 0;
    mask_at = p.mask_strides.at(rows.n, at.head, at.query);
    bias_at = p.bias_strides.at(rows.n, at.head, at.query);
    distance = at.query + rows.offset;
    score_row = rows.score_row(p, at);
    query_row = rows.query_row(p, at);
    alibi = p.alibi_slopes == nullptr ? 0.0f : p.alibi_slopes[at.head] * log2_e;
  }

  // Of the tile that begins with `key`.
  __device__ int begin_in(int64_t key) const {
    return static_cast<int>(smaller<int64_t>(tile_keys, larger<int64_t>(0, begin - key)));
  }
  __device__ int end_in(int64_t key) const {
    return static_cast<int>(smaller<int64_t>(tile_keys, larger<int64_t>(0, end - key)));
  }
};

// One score from one product, for a key that position and length let the row see. The slope of the
// softcap goes to `slope`.
__device__ inline float change_score(const Problem& p, const RowRule& rule, int64_t key, float x,
                                     float& slope) {
  if (p.softcap != 0.0f) {
    const float t = tanhf(x * (ln_2 / p.softcap));
    x = p.softcap * log2_e * t;
    slope = 1.0f - t * t;
  }
  if (p.bias != nullptr) x += p.bias[rule.bias_at + key * p.bias_strides.j] * log2_e;
  if (p.alibi_slopes != nullptr) {
    x -= rule.alibi * fabsf(static_cast<float>(rule.distance - key));
  }
  if (p.mask != nullptr && p.mask[rule.mask_at + key * p.mask_strides.j] == 0) {
    x = minus_infinity();
  }
  return x;
}

// Those of the rows from `first` on, for the whole block, which must meet before they are read.
__device__ inline void find_rules(const Problem& p, const Rows& rows, int64_t first, int count,
                                  RowRule* rules) {
  for (int r = static_cast<int>(threadIdx.x); r < count; r += static_cast<int>(blockDim.x)) {
    rules[r] = RowRule(p, rows, first + r);
  }
}

// Products to scores in place. The thread's rows have the rules 0, 4, ...; its keys are key +
// key_lane() + 8 j. `whole`: all rows of the tile see all of its keys.
template <int thread_rows, bool general>
__device__ inline void finish_scores(const Problem& p, const RowRule* rules, int64_t key,
                                     bool whole, float (&s)[thread_rows][thread_keys],
                                     float (*slopes)[thread_keys] = nullptr) {
  const float factor = p.scale * log2_e;
#pragma unroll
  for (int r = 0; r < thread_rows; ++r) {
#pragma unroll
    for (int j = 0; j < thread_keys; ++j) s[r][j] *= factor;
  }
  if (whole && !(general && changes_scores(p))) return;
#pragma unroll
  for (int r = 0; r < thread_rows; ++r) {
    const RowRule& rule = rules[r * row_lanes];
    const int begin = rule.begin_in(key);
    const int end = rule.end_in(key);
#pragma unroll
    for (int j = 0; j < thread_keys; ++j) {
      const int c = key_lane() + j * key_lanes;
      float slope = 1.0f;
      float x = minus_infinity();
      if (c >= begin && c < end) {
        x = s[r][j];
        if constexpr (general) x = change_score(p, rule, key + c, x, slope);
      }
      s[r][j] = x;
      if (slopes != nullptr) slopes[r][j] = slope;
    }
  }
}

// Bit j: dropout keeps the pair of this row with key key + key_lane() + 8 j. The 4 words of a
// counter belong to 4 lanes of keys, each of which computes those of another j and hands them on.
// All lanes of the warp call it; `key` is a multiple of 32.
__device__ inline unsigned kept_keys(const Problem& p, int64_t score_row, int64_t key) {
  const int mine = key_lane() & 3;
  const int64_t first = score_row * p.dropout_row() + key;
  const std::uint64_t counter = static_cast<std::uint64_t>(first) / 4 + (key_lane() >> 2);
  unsigned kept = 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const Philox4 words =
        philox(p.dropout.seed, counter + static_cast<std::uint64_t>((half * 4 + mine) * 2));
    std::uint32_t w[4] = {words.word[0], words.word[1], words.word[2], words.word[3]};
    // w[x] becomes word x ^ mine.
    if ((mine & 1) != 0) {
      const std::uint32_t a = w[0], b = w[2];
      w[0] = w[1];
      w[1] = a;
      w[2] = w[3];
      w[3] = b;
    }
    if ((mine & 2) != 0) {
      const std::uint32_t a = w[0], b = w[1];
      w[0] = w[2];
      w[2] = a;
      w[1] = w[3];
      w[3] = b;
    }
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      const std::uint32_t word = __shfl_xor_sync(all_lanes, w[x], x * 2);
      const unsigned keeps = word < p.dropout.threshold ? 1u : 0u;
      kept |= keeps << (half * 4 + (x ^ mine));
    }
  }
  return kept;
}

}  // namespace lamella::attention::tiles
