// Attention of few queries to many keys on the device, as a decoder makes it token by token: a
// block has a piece of the keys of one head and the rows that meet them, so that the pieces of all
// heads fill the device, and a second kernel puts the pieces' sums together in the order of the
// keys. Reading keys and values once decides: 4 L (E + Ev) bytes a head of theirs.
#pragma once

#include "cuda/reduce.cuh"
#include "ops/attention/attention_cuda_tiles.cuh"

namespace lamella::attention::tiles {

constexpr int decode_threads = 128;
constexpr int decode_warps = decode_threads / 32;
constexpr int most_piece_keys = 256;

struct DecodeShape {
  int piece_keys;  // a multiple of 32
  int pieces;      // of a head
  int64_t rows;    // of a head of keys
  int query_floats;
  bool size_vectors, value_vectors;
};

// The maximum of a piece's scores and the sum of their exponentials relative to it.
struct PieceTotal {
  float maximum, sum;
};

// Where row `row` of a head has its sums of a piece.
__device__ inline int64_t piece_row(const DecodeShape& shape, int64_t head, int piece,
                                    int64_t row) {
  return (head * shape.pieces + piece) * shape.rows + row;
}

// Products of up to `most_rows` rows with keys, two keys at a time for each 8 lanes.
template <int most_rows, bool vectors>
__device__ inline void multiply_piece(const float* queries, int query_floats, const float* keys,
                                      int64_t key_stride, int count, int size, float* x,
                                      int x_stride) {
  constexpr int together = 2;
  constexpr int step = decode_threads / 8;
  const int part = lane() % 8;
  for (int first = static_cast<int>(threadIdx.x) / 8 - lane() / 8; first < count;
       first += step * together) {
    float sums[together][most_rows] = {};
    const float* from[together];
#pragma unroll
    for (int i = 0; i < together; ++i) {
      const int key = first + lane() / 8 + i * step;
      from[i] = keys + (key < count ? key : 0) * key_stride;
    }
    if constexpr (vectors) {
      for (int e = part * 4; e < size; e += 32) {
        float4 k[together];
#pragma unroll
        for (int i = 0; i < together; ++i) k[i] = load4(from[i] + e);
#pragma unroll
        for (int r = 0; r < most_rows; ++r) {
          const float4 q = load4(queries + r * query_floats + e);
#pragma unroll
          for (int i = 0; i < together; ++i) {
            sums[i][r] = fmaf(q.x, k[i].x, sums[i][r]);
            sums[i][r] = fmaf(q.y, k[i].y, sums[i][r]);
            sums[i][r] = fmaf(q.z, k[i].z, sums[i][r]);
            sums[i][r] = fmaf(q.w, k[i].w, sums[i][r]);
          }
        }
      }
    } else {
      for (int e = part; e < size; e += 8) {
#pragma unroll
        for (int i = 0; i < together; ++i) {
          const float k = from[i][e];
#pragma unroll
          for (int r = 0; r < most_rows; ++r) {
            sums[i][r] = fmaf(queries[r * query_floats + e], k, sums[i][r]);
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < together; ++i) {
      const int key = first + lane() / 8 + i * step;
#pragma unroll
      for (int r = 0; r < most_rows; ++r) {
        const float sum = lamella::device::warp_sum<8>(sums[i][r]);
        if (part == 0 && key < count) x[r * x_stride + key] = sum;
      }
    }
  }
}

// Weights of a row, by one warp, in place of products.
__device__ inline PieceTotal weigh_piece(const Problem& p, const RowRule& rule, int64_t key,
                                         int count, float* x) {
  const float factor = p.scale * log2_e;
  float largest = minus_infinity();
  for (int c = lane(); c < count; c += 32) {
    const bool visible = key + c >= rule.begin && key + c < rule.end;
    float slope;
    const float score =
        visible ? change_score(p, rule, key + c, x[c] * factor, slope) : minus_infinity();
    x[c] = score;
    largest = fmaxf(largest, score);
  }
  largest = lamella::device::warp_max(largest);
  const float base = largest == minus_infinity() ? 0.0f : largest;
  float sum = 0.0f;
  for (int c = lane(); c < count; c += 32) {
    float e = exp2f(x[c] - base);
    sum += e;
    if (p.drops) {
      const std::uint64_t word =
          static_cast<std::uint64_t>(rule.score_row * p.dropout_row() + key + c);
      const Philox4 words = philox(p.dropout.seed, word / 4);
      const std::uint32_t low = (word & 1) != 0 ? words.word[1] : words.word[0];
      const std::uint32_t high = (word & 1) != 0 ? words.word[3] : words.word[2];
      e = ((word & 2) != 0 ? high : low) < p.dropout.threshold ? e * p.dropout.scale : 0.0f;
    }
    x[c] = e;
  }
  return {largest, lamella::device::warp_sum(sum)};
}

inline std::size_t decode_bytes(const DecodeShape& shape, int rows) {
  return (rows * (shape.query_floats + shape.piece_keys) + rows * decode_threads * 4) *
             sizeof(float) +
         rows * sizeof(RowRule);
}

// Sums of a piece for rows of one head of keys; blockIdx.y is which `most_rows` of them.
template <int most_rows>
__global__ void __launch_bounds__(decode_threads)
    decode_piece(const Problem p, const DecodeShape shape, PieceTotal* totals, float* sums) {
  RowRule* const rules = lamella::device::dynamic_shared<RowRule>();
  float4* const parts = reinterpret_cast<float4*>(rules + most_rows);
  float* const queries = reinterpret_cast<float*>(parts + most_rows * decode_threads);
  float* const x = queries + most_rows * shape.query_floats;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t head = blockIdx.x / shape.pieces;
  const int piece = static_cast<int>(blockIdx.x % shape.pieces);
  const int64_t first_row = int64_t{blockIdx.y} * most_rows;
  const int row_count = static_cast<int>(smaller<int64_t>(most_rows, shape.rows - first_row));
  const Rows rows = Rows::of_key_head(p, head / p.key_heads, head % p.key_heads);
  find_rules(p, rows, first_row, most_rows, rules);
  __syncthreads();
  const int64_t key = int64_t{piece} * shape.piece_keys;
  // Only what one of the rows sees is read.
  const Span some = rows.seen_by_some(p, first_row, first_row + row_count - 1);
  const int skipped =
      static_cast<int>(smaller<int64_t>(shape.piece_keys, larger<int64_t>(0, some.begin - key)));
  const int64_t first_key = key + skipped / 32 * 32;
  const int count = static_cast<int>(
      larger<int64_t>(0, smaller<int64_t>(key + shape.piece_keys, some.end) - first_key));
  for (int r = 0; r < most_rows; ++r) {
    const float* const from = p.query + rules[r].query_row * p.size;
    for (int e = thread; e < shape.query_floats; e += decode_threads) {
      queries[r * shape.query_floats + e] = e < p.size && r < row_count ? from[e] : 0.0f;
    }
  }
  __syncthreads();
  const int64_t key_stride = p.key_heads * p.size;
  const float* const keys =
      p.key + (rows.n * p.keys + first_key) * key_stride + rows.key_head * p.size;
  const int size = static_cast<int>(p.size);
  if (shape.size_vectors) {
    multiply_piece<most_rows, true>(queries, shape.query_floats, keys, key_stride, count, size, x,
                                    shape.piece_keys);
  } else {
    multiply_piece<most_rows, false>(queries, shape.query_floats, keys, key_stride, count, size, x,
                                     shape.piece_keys);
  }
  __syncthreads();
  for (int r = warp(); r < row_count; r += decode_warps) {
    const PieceTotal total = weigh_piece(p, rules[r], first_key, count, x + r * shape.piece_keys);
    if (lane() == 0) totals[piece_row(shape, head, piece, first_row + r)] = total;
  }
  __syncthreads();

  // Lanes side by side have 4 columns each of the same value; groups of them take turns with keys.
  const int64_t value_stride = p.key_heads * p.value_size;
  const float* const values =
      p.value + (rows.n * p.keys + first_key) * value_stride + rows.key_head * p.value_size;
  int column_lanes = 8;
  while (column_lanes < decode_threads && column_lanes * 4 < p.value_size) column_lanes *= 2;
  const int groups = decode_threads / column_lanes;
  const int group = thread / column_lanes;
  const int lane_column = thread % column_lanes * 4;
  for (int64_t begin = 0; begin < p.value_size; begin += column_lanes * 4) {
    const int64_t column = begin + lane_column;
    const int width =
        static_cast<int>(smaller<int64_t>(4, larger<int64_t>(0, p.value_size - column)));
    float4 sum[most_rows] = {};
    if (width > 0) {
#pragma unroll 4
      for (int k = group; k < count; k += groups) {
        const float* const from = values + k * value_stride + column;
        float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
        if (shape.value_vectors) {
          v = load4(from);
        } else {
          v.x = from[0];
          if (width > 1) v.y = from[1];
          if (width > 2) v.z = from[2];
          if (width > 3) v.w = from[3];
        }
#pragma unroll
        for (int r = 0; r < most_rows; ++r) {
          if (r >= row_count) break;
          const float w = x[r * shape.piece_keys + k];
          // A weight of 0 meets no value.
          sum[r].x = w == 0.0f ? sum[r].x : fmaf(w, v.x, sum[r].x);
          sum[r].y = w == 0.0f ? sum[r].y : fmaf(w, v.y, sum[r].y);
          sum[r].z = w == 0.0f ? sum[r].z : fmaf(w, v.z, sum[r].z);
          sum[r].w = w == 0.0f ? sum[r].w : fmaf(w, v.w, sum[r].w);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < most_rows; ++r) parts[r * decode_threads + thread] = sum[r];
    __syncthreads();
    for (int i = thread; i < row_count * column_lanes * 4; i += decode_threads) {
      const int r = i / (column_lanes * 4);
      const int c = i % (column_lanes * 4);
      if (begin + c >= p.value_size) continue;
      const float* const part = reinterpret_cast<const float*>(parts + r * decode_threads) + c;
      float total = part[0];
      for (int g = 1; g < groups; ++g) total += part[g * column_lanes * 4];
      sums[piece_row(shape, head, piece, first_row + r) * p.value_size + begin + c] = total;
    }
    __syncthreads();
  }
}

}  // namespace lamella::attention::tiles
