// Scores of additive attention and their derivatives on tiles of 64 queries by 64 keys: with
// Q = e^2q and K = e^2k, taken once an element and tile, r = Q K and d = r + 1,
//
//   tanh(q + k) = (d - 2) / d        (1 - tanh^2) / 4 = r / d^2
//
// and in scores two features share a division. r is cut off at 1e9, where tanh differs from 1 by
// 2e-9, so that no product overflows while scales are below 1e6. Quotients are approximate ones and
// a correction, off by at most 1 ulp. That needs |q|, |k| <= 43; a tile with others, or with what
// is not a number, goes through tanhf.
//
// FMAs decide, with reciprocals close behind: 5 of them and half a reciprocal a feature of a pair
// forward, and 10 and a reciprocal for each direction backward.
#pragma once

#include "ops/additive_attention/additive_attention.h"
#include "ops/attention/attention_cuda_launch.cuh"

namespace lamella::additive_attention::tiles {

using namespace lamella::attention::tiles;

constexpr float largest_exponent = 43.0f;
constexpr float largest_scale = 1e6f;

// n / d for 1 <= d < 2^126 and |n| < 2^126.
__device__ inline float quotient(float n, float d) {
#if defined(LAMELLA_SIMT)
  const float inverse = 1.0f / d;
#else
  const float inverse = __fdividef(1.0f, d);  // 2 ulp
#endif
  const float q = n * inverse;
  return fmaf(fmaf(-d, q, n), inverse, q);
}

constexpr float largest_product = 1e9f;

// A block's tile of queries, keys, dy and values, of attention's, and exponentials in it.
template <int columns>
struct AdditiveTile : PairTile<columns, true> {
  using Base = PairTile<columns, true>;
  static constexpr int stride = Base::stride;
  static constexpr int width = Base::width;
  static constexpr int threads = Base::threads;
  static constexpr std::size_t bytes = Base::bytes + width * sizeof(float);

  const float* given_scales;
  float* scales;  // of a chunk of features

  __device__ AdditiveTile(const Problem& problem, const attention::Saved& given,
                          const BackwardShape& s, const float* d, const float* inverses_of_totals)
      : Base(problem.pairs, given, s, d, inverses_of_totals),
        given_scales(problem.scale),
        scales(this->pairs + Base::rows * pair_stride) {}

  __device__ float scale_of(int64_t feature) const {
    return given_scales == nullptr ? 1.0f : given_scales[feature];
  }

  // A chunk of features, asynchronous but for the scales, with zeros up to whole vectors.
  __device__ void load_features(const Rows& all, int64_t key, int chunk, int count) const {
    this->load_queries(chunk, count);
    this->load_keys(all, key, chunk);
    const int depth = this->depth_of(chunk);
    for (int e = static_cast<int>(threadIdx.x); e < whole_vectors(depth); e += threads) {
      scales[e] = e < depth ? scale_of(int64_t{chunk} * width + e) : 0.0f;
    }
  }

  // What has come to exponentials; false if it is left as it is. All of the block meets.
  __device__ bool exponentiate(int chunk) const {
    const int depth = this->depth_of(chunk);
    bool fit = true;
    const auto test = [&](float& x) { fit = fit && fabsf(x) <= largest_exponent; };
    for_each_copied(depth, test);
    for (int e = static_cast<int>(threadIdx.x); e < depth; e += threads) {
      fit = fit && fabsf(scales[e]) <= largest_scale;
    }
    if (!__syncthreads_and(fit)) return false;
    for_each_copied(depth, [&](float& x) { x = expf(x + x); });
    __syncthreads();
    return true;
  }

  // Scores of the thread's pairs += those of a chunk.
  __device__ void add_scores(int chunk, Pairs& s) const {
    const float* const a = this->queries + this->warp_row() * stride;
    const float* const b = this->keys + key_lane() * stride;
    const int depth = whole_vectors(this->depth_of(chunk));
#pragma unroll 1
    for (int e = 0; e < depth; e += 4) {
      const float4 scale = load4(scales + e);
      float4 x[backward_thread_rows];
#pragma unroll
      for (int r = 0; r < backward_thread_rows; ++r) x[r] = load4(a + r * row_lanes * stride + e);
#pragma unroll
      for (int j = 0; j < thread_keys; ++j) {
        const float4 y = load4(b + j * key_lanes * stride + e);
#pragma unroll
        for (int r = 0; r < backward_thread_rows; ++r) {
          s[r][j] += two_features(scale.x, scale.y, x[r].x, x[r].y, y.x, y.y);
          s[r][j] += two_features(scale.z, scale.w, x[r].z, x[r].w, y.z, y.w);
        }
      }
    }
  }

  // The same from queries and keys themselves.
  __device__ void add_scores_by_tanh(int chunk, Pairs& s) const {
    const int depth = this->depth_of(chunk);
    const float* const a = this->queries + this->warp_row() * stride;
    const float* const b = this->keys + key_lane() * stride;
    for (int e = 0; e < depth; ++e) {
#pragma unroll
      for (int r = 0; r < backward_thread_rows; ++r) {
#pragma unroll
        for (int j = 0; j < thread_keys; ++j) {
          const float h = tanhf(a[r * row_lanes * stride + e] + b[j * key_lanes * stride + e]);
          s[r][j] = fmaf(scales[e], h, s[r][j]);
        }
      }
    }
  }

  // Scores of the tile's pairs, from all chunks.
  __device__ void score(const Rows& all, int64_t key, int count, Pairs& s) const {
    for (int chunk = 0; chunk < this->shape.depth_chunks; ++chunk) {
      __syncthreads();
      load_features(all, key, chunk, count);
      Base::arrive();
      __syncthreads();
      if (exponentiate(chunk)) {
        add_scores(chunk, s);
      } else {
        add_scores_by_tanh(chunk, s);
      }
    }
  }

  // Products of dy and values, from all chunks.
  __device__ void multiply_values(const Rows& all, int64_t key, int count, Pairs& dw) const {
    if (this->saved.dy == nullptr) return;
    for (int chunk = 0; chunk < this->shape.value_chunks; ++chunk) {
      __syncthreads();
      this->load_dy(chunk, count);
      this->load_values(all, key, chunk);
      Base::arrive();
      __syncthreads();
      add_dots<stride>(this->dy + this->warp_row() * stride, this->values + key_lane() * stride,
                       whole_vectors(this->value_depth_of(chunk)), dw);
    }
  }

 private:
  __device__ static float two_features(float scale0, float scale1, float q0, float q1, float k0,
                                       float k1) {
    const float d0 = fminf(fmaf(q0, k0, 1.0f), largest_product);
    const float d1 = fminf(fmaf(q1, k1, 1.0f), largest_product);
    const float n0 = fmaf(scale0, d0, -2.0f * scale0);
    const float n1 = fmaf(scale1, d1, -2.0f * scale1);
    return quotient(fmaf(n0, d1, n1 * d0), d0 * d1);
  }

  // body(x) for the elements of queries and keys that are this thread's in both of its calls.
  template <class Body>
  __device__ void for_each_copied(int depth, const Body& body) const {
    for (int r = warp(); r < Base::rows + tile_keys; r += threads / 32) {
      float* const row = this->queries + (r < Base::rows ? r * stride : 0);
      float* const other = this->keys + (r - Base::rows) * stride;
      for (int e = lane(); e < depth; e += 32) body(r < Base::rows ? row[e] : other[e]);
    }
  }
};

// What a pair gives to the gradients of a feature: ds times (1 - h^2) / 4, and ds times h.
struct FeatureGradient {
  float slope, h;
};
__device__ inline FeatureGradient differentiate_feature(float ds, float q, float k) {
  const float r = fminf(q * k, largest_product);
  const float u = quotient(1.0f, r + 1.0f);
  const float v = r * u;
  return {ds * (u * v), ds * (v - u)};
}
__device__ inline FeatureGradient differentiate_feature_by_tanh(float ds, float q, float k) {
  if (ds == 0.0f) return {0.0f, 0.0f};  // meets nothing
  const float h = tanhf(q + k);
  return {ds * (0.25f * fmaf(-h, h, 1.0f)), ds * h};
}

}  // namespace lamella::additive_attention::tiles
