// The sparse and the categorical cross-entropy: the same row functions over two kinds of targets.
// A row is read from memory once; its passes (maximum, sums, result) find it in L1.
#include "ops/crossentropy/crossentropy_simd.h"

namespace lamella::LAMELLA_ISA {
namespace {

// Targets of one row: `at(place)` is a vector of them, 0 behind the row's end; besides those the
// class `label` has `extra`.
struct SoftTargets {
  static constexpr bool sparse = false;
  const float* labels;
  const float* class_weights;  // or null
  float factor;
  float offset;

  template <class Place>
  LAMELLA_INLINE Float at(Place place) const {
    const Float t = fma(place.get(labels), set(factor), set(offset));
    if (class_weights != nullptr) return t * place.get(class_weights);
    return inside_or(t, place, zero());
  }
};

struct SparseTargets {
  static constexpr bool sparse = true;
  std::int64_t label;
  float extra;
  float offset;

  template <class Place>
  LAMELLA_INLINE Float at(Place place) const {
    return inside_or(set(offset), place, zero());
  }
};

SoftTargets soft_targets(const Problem& p, const float* labels, std::int64_t row) {
  return {labels + row * p.classes, p.class_weights, 1.0f - p.smoothing,
          p.smoothing / static_cast<float>(p.classes)};
}

SparseTargets sparse_targets(const Problem& p, std::int64_t label) {
  const float weight = p.class_weights == nullptr ? 1.0f : p.class_weights[label];
  return {label, weight * (1.0f - p.smoothing),
          weight * p.smoothing / static_cast<float>(p.classes)};
}

// -log p of a class, from its logit.
struct LogSoftmax {
  float row_max;
  float log_sum;
  float loss_of(float logit) const { return (row_max - logit) + log_sum; }
};

template <class Targets>
LAMELLA_INLINE float loss_from_logits(const float* x, std::int64_t classes,
                                      const Targets& targets) {
  const float row_max = row_maximum(x, classes);
  const Float m = set(row_max);
  if constexpr (Targets::sparse) {
    const float total = row_sums<1>(classes, [&](auto at, Float* s) {
                          s[0] = s[0] + exponential(x, at, m);
                        }).sum[0];
    const LogSoftmax row{row_max, scalar_log(total)};
    float loss = 0.0f;
    if (targets.extra != 0.0f) loss = targets.extra * row.loss_of(x[targets.label]);
    if (targets.offset == 0.0f) return loss;
    const float smooth = row_sums<1>(classes, [&](auto at, Float* s) {
                           const Float term = (m - at.get(x)) + set(row.log_sum);
                           s[0] = s[0] + inside_or(term, at, zero());
                         }).sum[0];
    return loss + targets.offset * smooth;
  } else {
    const auto sums = row_sums<3>(classes, [&](auto at, Float* s) {
      const Float t = targets.at(at);
      s[0] = s[0] + exponential(x, at, m);
      s[1] = s[1] + t;
      // Behind the end m - 0 may be infinite: 0 times that must not be formed.
      s[2] = fma(t, inside_or(m - at.get(x), at, zero()), s[2]);
    });
    return sums.sum[2] + sums.sum[1] * scalar_log(sums.sum[0]);
  }
}

template <class Targets>
LAMELLA_INLINE void gradient_from_logits(const float* x, std::int64_t classes,
                                         const Targets& targets, float dy, float* d_pred) {
  const Float m = set(row_maximum(x, classes));
  const auto sums = row_sums<2>(classes, [&](auto at, Float* s) {
    const Float e = exponential(x, at, m);
    at.put(d_pred, e);
    s[0] = s[0] + e;
    if constexpr (!Targets::sparse) s[1] = s[1] + targets.at(at);
  });
  float target_sum = sums.sum[1];
  if constexpr (Targets::sparse) {
    target_sum = targets.extra + targets.offset * static_cast<float>(classes);
  }
  const Float scale = set(target_sum / sums.sum[0]);
  for_vectors(0, classes, [&](auto at) {
    at.put(d_pred, (at.get(d_pred) * scale - targets.at(at)) * set(dy));
  });
  if constexpr (Targets::sparse) d_pred[targets.label] -= targets.extra * dy;
}

LAMELLA_INLINE float row_total(const float* x, std::int64_t size) {
  return row_sums<1>(size, [&](auto at, Float* s) { s[0] = s[0] + at.get(x); }).sum[0];
}

template <class Targets>
LAMELLA_INLINE float loss_from_probabilities(const float* x, std::int64_t classes,
                                             const Targets& targets) {
  const float total = row_total(x, classes);
  const auto sum_over_classes = [&] {
    return row_sums<1>(classes,
                       [&](auto at, Float* s) {
                         const Float t = targets.at(at);
                         s[0] = fnma(t, log(clip(at.get(x) / set(total))), s[0]);
                       })
        .sum[0];
  };
  if constexpr (Targets::sparse) {
    float loss = 0.0f;
    if (targets.extra != 0.0f) {
      float lanes[Float::width];
      store(lanes, log(clip(set(x[targets.label] / total))));
      loss = -targets.extra * lanes[0];
    }
    return targets.offset == 0.0f ? loss : loss + sum_over_classes();
  } else {
    return sum_over_classes();
  }
}

template <class Targets>
LAMELLA_INLINE void gradient_from_probabilities(const float* x, std::int64_t classes,
                                                const Targets& targets, float dy, float* d_pred) {
  const float total = row_total(x, classes);
  float unchanged = row_sums<1>(classes, [&](auto at, Float* s) {
                      const Mask keep = clip_keeps(at.get(x) / set(total));
                      s[0] = s[0] + select(keep, targets.at(at), zero());
                    }).sum[0];
  float p = 0.0f;
  bool label_kept = false;
  if constexpr (Targets::sparse) {
    p = x[targets.label] / total;
    label_kept = clip_low <= p && p <= clip_high;
    if (label_kept) unchanged += targets.extra;
  }
  // An infinite sum makes every probability 0 or NaN, and the gradient NaN.
  const float scale = dy / total + (total - total);
  for_vectors(0, classes, [&](auto at) {
    const Float q = at.get(x) / set(total);
    const Float share = select(clip_keeps(q), targets.at(at) / q, zero());
    at.put(d_pred, (set(unchanged) - share) * set(scale));
  });
  if constexpr (Targets::sparse) {
    const float share = label_kept ? (targets.extra + targets.offset) / p : 0.0f;
    d_pred[targets.label] = (unchanged - share) * scale;
  }
}

template <class Targets>
LAMELLA_INLINE float loss_of_row(const Problem& p, std::int64_t row, const Targets& targets) {
  const float* x = p.y_pred + row * p.classes;
  return p.from_logits ? loss_from_logits(x, p.classes, targets)
                       : loss_from_probabilities(x, p.classes, targets);
}

template <class Targets>
LAMELLA_INLINE void gradient_of_row(const Problem& p, std::int64_t row, const Targets& targets,
                                    float dy, float* d_pred) {
  const float* x = p.y_pred + row * p.classes;
  float* out = d_pred + row * p.classes;
  p.from_logits ? gradient_from_logits(x, p.classes, targets, dy, out)
                : gradient_from_probabilities(x, p.classes, targets, dy, out);
}

template <class Body>
LAMELLA_INLINE void each_row(const Problem& p, const Body& body) {
  parallel_rows(p.rows, 1, p.classes,
                [&](std::int64_t row, std::int64_t, std::int64_t) { body(row); });
}

bool is_ignored(const SparseLabels& labels, std::int64_t row) {
  return labels.has_ignore_index && labels.labels[row] == labels.ignore_index;
}

void sparse_forward(const Problem& p, const SparseLabels& labels, float* loss) {
  each_row(p, [&](std::int64_t row) {
    loss[row] =
        is_ignored(labels, row) ? 0.0f : loss_of_row(p, row, sparse_targets(p, labels.labels[row]));
  });
}

void sparse_backward(const Problem& p, const SparseLabels& labels, const float* dy, float* d_pred) {
  each_row(p, [&](std::int64_t row) {
    if (is_ignored(labels, row)) {
      float* out = d_pred + row * p.classes;
      return for_vectors(0, p.classes, [&](auto at) { at.put(out, zero()); });
    }
    gradient_of_row(p, row, sparse_targets(p, labels.labels[row]), dy[row], d_pred);
  });
}

void categorical_forward(const Problem& p, const float* labels, float* loss) {
  each_row(
      p, [&](std::int64_t row) { loss[row] = loss_of_row(p, row, soft_targets(p, labels, row)); });
}

void categorical_backward(const Problem& p, const float* labels, const float* dy, float* d_pred) {
  each_row(p, [&](std::int64_t row) {
    gradient_of_row(p, row, soft_targets(p, labels, row), dy[row], d_pred);
  });
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::crossentropy::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::sparse_forward, kernel::sparse_backward,
                                kernel::categorical_forward, kernel::categorical_backward};

}  // namespace lamella::crossentropy::LAMELLA_ISA
