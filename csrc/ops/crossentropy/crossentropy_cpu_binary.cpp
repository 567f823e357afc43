// The binary cross-entropy: pointwise, then the mean of each row. With one class, the usual case,
// vectors run over the rows.
#include "ops/crossentropy/crossentropy_simd.h"

namespace lamella::LAMELLA_ISA {
namespace {

// -t log p - (1 - t) log(1 - p)
template <bool from_logits>
LAMELLA_INLINE Float loss_of(Float y_pred, Float t) {
  if constexpr (from_logits) {
    // log p = z - softplus(z), log(1 - p) = -softplus(z)
    const Float positive_part = max(zero(), y_pred);
    return fnma(t, y_pred, positive_part) + log1p_positive(exp_nonpositive(zero() - abs(y_pred)));
  } else {
    const Float p = clip(y_pred);
    const Float q = set(1.0f) - p;
    return zero() - fma(t, log(p), (set(1.0f) - t) * log(q));
  }
}

template <bool from_logits>
LAMELLA_INLINE Float gradient_of(Float y_pred, Float t) {
  if constexpr (from_logits) {
    return sigmoid(y_pred) - t;
  } else {
    const Float slope = (y_pred - t) / (y_pred * (set(1.0f) - y_pred));
    return select(clip_keeps(y_pred), slope, zero());
  }
}

struct Targets {
  const float* labels;
  Float factor;
  Float offset;
  template <class Place>
  LAMELLA_INLINE Float at(Place place, std::int64_t first) const {
    return fma(place.get(labels + first), factor, offset);
  }
};

template <bool from_logits>
void forward_with(const Problem& p, const Targets& targets, float* loss) {
  if (p.classes == 1) {
    return parallel_vectors(p.rows, [&](auto at) {
      at.put(loss, loss_of<from_logits>(at.get(p.y_pred), targets.at(at, 0)));
    });
  }
  parallel_rows(p.rows, 1, p.classes, [&](std::int64_t row, std::int64_t, std::int64_t) {
    const std::int64_t first = row * p.classes;
    const auto sums = row_sums<1>(p.classes, [&](auto at, Float* s) {
      const Float term = loss_of<from_logits>(at.get(p.y_pred + first), targets.at(at, first));
      s[0] = s[0] + inside_or(term, at, zero());
    });
    loss[row] = sums.sum[0] / static_cast<float>(p.classes);
  });
}

template <bool from_logits>
void backward_with(const Problem& p, const Targets& targets, const float* dy, float* d_pred) {
  if (p.classes == 1) {
    return parallel_vectors(p.rows, [&](auto at) {
      const Float slope = gradient_of<from_logits>(at.get(p.y_pred), targets.at(at, 0));
      at.put(d_pred, slope * at.get(dy));
    });
  }
  parallel_rows(p.rows, 1, p.classes, [&](std::int64_t row, std::int64_t, std::int64_t) {
    const std::int64_t first = row * p.classes;
    const Float scale = set(dy[row] / static_cast<float>(p.classes));
    for_vectors(0, p.classes, [&](auto at) {
      const Float slope = gradient_of<from_logits>(at.get(p.y_pred + first), targets.at(at, first));
      at.put(d_pred + first, slope * scale);
    });
  });
}

Targets targets_of(const Problem& p, const float* labels) {
  return {labels, set(1.0f - p.smoothing), set(0.5f * p.smoothing)};
}

void forward(const Problem& p, const float* labels, float* loss) {
  const Targets targets = targets_of(p, labels);
  p.from_logits ? forward_with<true>(p, targets, loss) : forward_with<false>(p, targets, loss);
}

void backward(const Problem& p, const float* labels, const float* dy, float* d_pred) {
  const Targets targets = targets_of(p, labels);
  p.from_logits ? backward_with<true>(p, targets, dy, d_pred)
                : backward_with<false>(p, targets, dy, d_pred);
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::crossentropy::binary::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::forward, kernel::backward};

}  // namespace lamella::crossentropy::binary::LAMELLA_ISA
