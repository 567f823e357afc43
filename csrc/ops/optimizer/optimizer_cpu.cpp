// Optimizer steps: bound by memory, so each is one pass whatever its options.
#include "ops/optimizer/optimizer.h"
#include "simd/pointwise.h"

namespace lamella::LAMELLA_ISA {
namespace {

using optimizer::Adam;
using optimizer::Average;
using optimizer::RmsProp;
using optimizer::Sgd;

// Rounded once: 1 - decay as a factor would be off by 6e-8, which is not small beside decay.
LAMELLA_INLINE Float decayed(Float w, Float decay) {
  return fnma(w, decay, w);
}

// beta x, exact to one rounding although neither beta nor 1 - beta is exact in float: from
// whichever is small. 0.999 as a float would let a mean of squares settle 3e-5 off.
LAMELLA_INLINE Float faded(Float x, Average average) {
  if (average.new_share <= 0.5f) return fnma(set(average.new_share), x, x);
  return set(average.old_share) * x;
}
// old_share mean + new_share x.
LAMELLA_INLINE Float averaged(Float mean, Float x, Average average) {
  return fma(set(average.new_share), x, faded(mean, average));
}

void sgd(const Sgd& o, std::int64_t size, float* param, const float* grad, float* velocity) {
  const Float rate = set(o.learning_rate);
  const Float momentum = set(o.momentum);
  const Float decay = set(o.decay);
  if (velocity == nullptr) {
    return parallel_vectors(size, [&](auto place) {
      place.put(param, fnma(rate, place.get(grad), decayed(place.get(param), decay)));
    });
  }
  parallel_vectors(size, [&](auto place) {
    const Float g = place.get(grad);
    const Float w = decayed(place.get(param), decay);
    const Float v = fnma(rate, g, momentum * place.get(velocity));
    place.put(velocity, v);
    place.put(param, o.nesterov ? fnma(rate, g, fma(momentum, v, w)) : w + v);
  });
}

void rmsprop(const RmsProp& o, std::int64_t size, float* param, const float* grad, float* square,
             float* mean, float* momentum) {
  const Float rate = set(o.learning_rate);
  const Float epsilon = set(o.epsilon);
  const Float decay = set(o.decay);
  parallel_vectors(size, [&](auto place) {
    const Float g = place.get(grad);
    const Float s = averaged(place.get(square), g * g, o.rho);
    place.put(square, s);
    Float spread = s;
    if (mean != nullptr) {
      const Float a = averaged(place.get(mean), g, o.rho);
      place.put(mean, a);
      // Rounding may put a variance of zero below it; NaN stays.
      spread = max(zero(), fnma(a, a, s));
    }
    Float step = rate * g / sqrt(spread + epsilon);
    if (momentum != nullptr) {
      step = fma(set(o.momentum), place.get(momentum), step);
      place.put(momentum, step);
    }
    place.put(param, decayed(place.get(param), decay) - step);
  });
}

void adam(const Adam& o, std::int64_t size, float* param, const float* grad, float* m, float* v,
          float* vhat) {
  const Float alpha = set(o.alpha);
  const Float epsilon = set(o.epsilon);
  const Float decay = set(o.decay);
  parallel_vectors(size, [&](auto place) {
    const Float g = place.get(grad);
    const Float m_new = averaged(place.get(m), g, o.beta_1);
    const Float v_new = averaged(place.get(v), g * g, o.beta_2);
    place.put(m, m_new);
    place.put(v, v_new);
    Float denominator = v_new;
    if (vhat != nullptr) {
      denominator = max(place.get(vhat), v_new);
      place.put(vhat, denominator);
    }
    const Float step = alpha * m_new / (sqrt(denominator) + epsilon);
    place.put(param, decayed(place.get(param), decay) - step);
  });
}

// In double, where the squares are exact: the sum of a fixed set of lanes is the same everywhere.
void squared_norm(std::int64_t size, const float* x, double* sums) {
  parallel_chunks(size, optimizer::norm_block, [&](std::int64_t begin, std::int64_t end) {
    constexpr int lanes = 32;
    double s[lanes] = {};
    std::int64_t i = begin;
    for (; i + lanes <= end; i += lanes) {
      for (int k = 0; k < lanes; ++k) s[k] += double{x[i + k]} * double{x[i + k]};
    }
    for (int k = 0; i < end; ++i, ++k) s[k] += double{x[i]} * double{x[i]};
    double total = 0.0;
    for (int k = 0; k < lanes; ++k) total += s[k];
    sums[begin / optimizer::norm_block] = total;
  });
}

void scale(float factor, std::int64_t size, float* x) {
  parallel_vectors(size, [&](auto place) { place.put(x, place.get(x) * set(factor)); });
}

void clip(float low, float high, std::int64_t size, float* x) {
  parallel_vectors(size,
                   [&](auto place) { place.put(x, min(set(high), max(set(low), place.get(x)))); });
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::optimizer::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::sgd,          kernel::rmsprop, kernel::adam,
                                kernel::squared_norm, kernel::scale,   kernel::clip};

}  // namespace lamella::optimizer::LAMELLA_ISA
