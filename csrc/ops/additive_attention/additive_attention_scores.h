// Scores of queries and keys, and their derivative: all of the time goes here.
//
// With Q = e^2q and K = e^2k, taken once for each element of query and key, and r = Q K,
//
//   tanh(q + k) = (r - 1) / (r + 1),   1 - tanh^2 = 4 u v,   u = 1 / (r + 1),   v = r u
//
// so that a pair costs a product and a division. Divisions are slow; four features share one:
//
//   n0/d0 + n1/d1 + n2/d2 + n3/d3 = ((n0 d1 + n1 d0) d2 d3 + (n2 d3 + n3 d2) d0 d1) / (d0 d1 d2 d3)
//
// r is cut off at 1e9, where tanh differs from 1 by 2e-9, so that no product overflows as long as
// scales are below 1e6. The error of a tanh in a score is at most 2.8e-7 absolute (measured:
// 2.6e-7 without FMA, 2.3e-7 with it, that of the softmax behind it included), that of 1 - tanh^2
// in a gradient at most 5e-7 relative for |q + k| < 9 (4.4e-7).
//
// That needs queries and keys whose exponentials neither overflow nor vanish. Where one lies beyond
// +-43, or is not a number, its row of queries or panel of keys goes through `tanh`.
#pragma once

#include "ops/additive_attention/additive_attention.h"
#include "ops/attention/attention_products.h"

namespace lamella::LAMELLA_ISA {

// Features, or keys, that share a division.
constexpr std::int64_t shared_division = 4;

LAMELLA_INLINE std::int64_t whole_groups(std::int64_t features) {
  return ceil_div(features, shared_division) * shared_division;
}

constexpr float largest_exponent = 43.0f;
constexpr float largest_scale = 1e6f;

// e^2x for |x| up to the largest exponent, 1.1 ulp (1.05): as `exp`, which has 2, but rounded once
// at the end.
LAMELLA_INLINE Float exp_of_twice(Float x) {
  static constexpr float p[] = {5.000000101e-01f, 1.666651295e-01f, 4.166618749e-02f,
                                8.369590688e-03f, 1.395170369e-03f};
  const Float y = x + x;
  const Float n = round(y * set(1.44269504f));
  const Float r = fnma(n, set(-2.12194440e-4f), fnma(n, set(0.693359375f), y));
  const Float e = fma(r * r, polynomial(r, p), r) + set(1.0f);
  return scale_by_normal_power_of_two(e, n);
}

// `count` elements, x to e^2x in place; whether all of them lie within the largest exponent.
inline bool exponentiate(std::int64_t count, float* x) {
  Float outside = zero();
  for_vectors(0, count, [&](auto at) {
    const Float v = at.get(x);
    outside = outside + select(less_equal(abs(v), set(largest_exponent)), zero(), set(1.0f));
    at.put(x, exp_of_twice(v));
  });
  return sum(outside) == 0.0f;
}

// r of the comment above, cut off.
LAMELLA_INLINE Float product_of_exponentials(Float q, Float k) {
  return min(set(1e9f), q * k);
}

// The scales of the features, with zeros up to whole vectors.
class FeatureScales {
 public:
  explicit FeatureScales(const additive_attention::Problem& p)
      : features_(p.pairs.size), scale_(p.pairs.op, whole_vectors(features_)) {
    for (std::int64_t e = 0; e < whole_vectors(features_); ++e) {
      const float scale = e >= features_ ? 0.0f : p.scale == nullptr ? 1.0f : p.scale[e];
      scale_.get()[e] = scale;
      is_moderate_ = is_moderate_ && scale <= largest_scale && scale >= -largest_scale;
    }
  }

  std::int64_t features() const { return features_; }
  const float* get() const { return scale_.get(); }
  // Whether features may share a division.
  bool is_moderate() const { return is_moderate_; }

 private:
  std::int64_t features_;
  Scratch<float> scale_;
  bool is_moderate_ = true;
};

// Scores of a row, Q of whole groups, with the first vectors of a panel: K [feature][panel columns]
// of whole groups.
template <int vectors>
LAMELLA_INLINE void score_row(const FeatureScales& scales, const float* q, const float* panel,
                              float* x) {
  constexpr int group = static_cast<int>(shared_division);
  Float total[vectors];
  for (int v = 0; v < vectors; ++v) total[v] = zero();
  for (std::int64_t e = 0; e < scales.features(); e += group) {
    const float* const scale = scales.get() + e;
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      Float n[group], d[group];
#pragma GCC unroll 4
      for (int i = 0; i < group; ++i) {
        const Float k = load(panel + (e + i) * score_panel + v * Float::width);
        const Float r = product_of_exponentials(set(q[e + i]), k);
        n[i] = fma(set(scale[i]), r, set(-scale[i]));
        d[i] = r + set(1.0f);
      }
      const Float n01 = fma(n[1], d[0], n[0] * d[1]);
      const Float n23 = fma(n[3], d[2], n[2] * d[3]);
      const Float d01 = d[0] * d[1];
      const Float d23 = d[2] * d[3];
      total[v] = total[v] + fma(n01, d23, n23 * d01) / (d01 * d23);
    }
  }
  for (int v = 0; v < vectors; ++v) store(x + v * Float::width, total[v]);
}

inline void score_row(const FeatureScales& scales, const float* q, const float* panel,
                      std::int64_t vectors, float* x) {
  constexpr int most = score_panel / Float::width;
  static_assert(most == 2 || most == 4);
  if (vectors == 1) {
    score_row<1>(scales, q, panel, x);
  } else if (most == 2 || vectors == 2) {
    score_row<2>(scales, q, panel, x);
  } else if (vectors == 3) {
    score_row<3>(scales, q, panel, x);
  } else {
    score_row<most>(scales, q, panel, x);
  }
}

// The same from q and a panel of k themselves.
inline void score_row_by_tanh(const FeatureScales& scales, const float* q, const float* panel,
                              std::int64_t vectors, float* x) {
  for (std::int64_t c = 0; c < vectors * Float::width; c += Float::width) {
    Float total = zero();
    for (std::int64_t e = 0; e < scales.features(); ++e) {
      const Float h = tanh(set(q[e]) + load(panel + e * score_panel + c));
      total = fma(set(scales.get()[e]), h, total);
    }
    store(x + c, total);
  }
}

// What the gradients of a row's scores with some keys give a vector of features: ds times
// (1 - h^2) / 4 to `dq` and each key's dk, ds times h to `dscale`. K and dk are [key][lane].
struct FeatureGradients {
  Float dq, dscale;
};

// `count` keys, of whole groups.
LAMELLA_INLINE FeatureGradients differentiate_row(Float q, const float* keys, const float* ds,
                                                  std::int64_t count, float* dk) {
  constexpr int width = Float::width;
  constexpr int group = static_cast<int>(shared_division);
  FeatureGradients total = {zero(), zero()};
  for (std::int64_t j = 0; j < count; j += group) {
    Float r[group], d[group];
#pragma GCC unroll 4
    for (int i = 0; i < group; ++i) {
      r[i] = product_of_exponentials(q, load(keys + (j + i) * width));
      d[i] = r[i] + set(1.0f);
    }
    const Float d01 = d[0] * d[1];
    const Float d23 = d[2] * d[3];
    const Float inverse = set(1.0f) / (d01 * d23);
    const Float inverse01 = inverse * d23;
    const Float inverse23 = inverse * d01;
    const Float u[group] = {inverse01 * d[1], inverse01 * d[0], inverse23 * d[3], inverse23 * d[2]};
#pragma GCC unroll 4
    for (int i = 0; i < group; ++i) {
      const Float gradient = set(ds[j + i]);
      const Float v = r[i] * u[i];
      const Float slope = u[i] * v;
      float* const to = dk + (j + i) * width;
      total.dq = fma(gradient, slope, total.dq);
      total.dscale = fma(gradient, v - u[i], total.dscale);
      store(to, fma(gradient, slope, load(to)));
    }
  }
  return total;
}

// The same from q and keys themselves, n of the lanes, `stride` from key to key. A ds of 0 meets
// nothing of them.
inline FeatureGradients differentiate_row_by_tanh(Float q, const float* keys, std::int64_t stride,
                                                  std::int64_t n, const float* ds,
                                                  std::int64_t count, float* dk) {
  FeatureGradients total = {zero(), zero()};
  for (std::int64_t j = 0; j < count; ++j) {
    if (ds[j] == 0.0f) continue;
    const Float gradient = set(ds[j]);
    const Float h = tanh(q + load_n(keys + j * stride, n));
    const Float slope = set(0.25f) * fnma(h, h, set(1.0f));
    float* const to = dk + j * Float::width;
    total.dq = fma(gradient, slope, total.dq);
    total.dscale = fma(gradient, h, total.dscale);
    store(to, fma(gradient, slope, load(to)));
  }
  return total;
}

}  // namespace lamella::LAMELLA_ISA
