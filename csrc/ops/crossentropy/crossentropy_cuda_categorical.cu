// The sparse and the categorical cross-entropy on the device: the same row functions over two kinds
// of targets. What limits them is memory. Rows of up to 8192 classes are read once and stay in
// registers; of longer ones the loss from logits and sparse labels reads once too, all else finds
// the row in L1 and L2 in its later passes.
#include "cuda/kernel.cuh"
#include "cuda/softmax_sums.cuh"
#include "ops/crossentropy/crossentropy_cuda.cuh"

namespace lamella::crossentropy::device {
namespace {

// Targets of one row. at(label, c): of class c, whose soft label is `label`; besides that the class
// `label` of a sparse row has `extra`.
struct SparseTargets {
  static constexpr bool sparse = true;
  std::int64_t label;
  float extra;
  float offset;
  bool ignored;

  __device__ float at(float, std::int64_t) const { return offset; }
};

struct SoftTargets {
  static constexpr bool sparse = false;
  const float* class_weights;  // or null
  float factor;
  float offset;

  __device__ float at(float label, std::int64_t c) const {
    const float t = fmaf(label, factor, offset);
    return class_weights == nullptr ? t : t * class_weights[c];
  }
};

// Where the targets of all rows come from.
struct Sparse {
  SparseLabels labels;

  using Row = SparseTargets;
  const float* soft() const { return nullptr; }
  __device__ const float* soft_row(std::int64_t, std::int64_t) const { return nullptr; }

  __device__ SparseTargets row(const Problem& p, std::int64_t row) const {
    if (row >= p.rows) return {0, 0.0f, 0.0f, true};
    const std::int64_t label = labels.labels[row];
    if (labels.has_ignore_index && label == labels.ignore_index) return {0, 0.0f, 0.0f, true};
    const float weight = p.class_weights == nullptr ? 1.0f : p.class_weights[label];
    return {label, weight * (1.0f - p.smoothing),
            weight * p.smoothing / static_cast<float>(p.classes), false};
  }
};

struct Soft {
  const float* labels;

  using Row = SoftTargets;
  const float* soft() const { return labels; }
  __device__ const float* soft_row(std::int64_t row, std::int64_t classes) const {
    return labels + row * classes;
  }

  __device__ SoftTargets row(const Problem& p, std::int64_t) const {
    return {p.class_weights, 1.0f - p.smoothing, p.smoothing / static_cast<float>(p.classes)};
  }
};

// The maximum of a row of logits and the sum of e^(x - max). Those of a held row replace it.
template <class Team, bool is_held>
__device__ Exponentials exponentials(LabelledRow<Team, is_held>& row, float* slots) {
  Exponentials own;
  if constexpr (is_held) {
    row.template pass<true>(minus_infinity, [&](const RowPart<Team>&, std::int64_t) {
#pragma unroll
      for (int k = 0; k < Team::held; ++k) own.max = fmaxf(own.max, row.v[k]);
    });
    own.max = team_maximum<Team>(own.max, slots);
#pragma unroll
    for (int k = 0; k < Team::held; ++k) own.sum += expf(row.v[k] - own.max);
    own.sum = team_sum<Team>(own.sum, slots + Team::slots);
    return own;
  } else {
    row.template pass<true>(minus_infinity,
                            [&](const RowPart<Team>&, std::int64_t) { own.add(row.v); });
    const float most = team_maximum<Team>(own.max, slots);
    return {most, team_sum<Team>(rescaled(own, most), slots + Team::slots)};
  }
}

template <class Team, bool is_held, class Targets>
__device__ float loss_from_logits(LabelledRow<Team, is_held>& row, const Targets& targets,
                                  float* slots) {
  const Exponentials all = exponentials(row, slots);
  const float log_sum = logf(all.total());
  float loss = 0.0f;
  if constexpr (Targets::sparse) {
    if (targets.extra != 0.0f) {
      loss = targets.extra * ((all.max - row.x[targets.label]) + log_sum);
    }
    // The same in all rows, or 0 in those of weight 0, whose threads take part all the same.
    float smooth = 0.0f;
    if (targets.offset != 0.0f) {
      row.template pass<false>(minus_infinity, [&](const RowPart<Team>& part, std::int64_t) {
        part.each([&](int k, int) { smooth += (all.max - row.v[k]) + log_sum; });
      });
    }
    smooth = team_sum<Team>(smooth, slots + 2 * Team::slots);
    return targets.offset == 0.0f ? loss : fmaf(targets.offset, smooth, loss);
  } else {
    float sums[2] = {0.0f, 0.0f};
    row.template pass<false>(minus_infinity, [&](const RowPart<Team>& part, std::int64_t begin) {
      part.each([&](int k, int c) {
        const float t = targets.at(row.t[k], begin + c);
        sums[0] += t;
        sums[1] = fmaf(t, all.max - row.v[k], sums[1]);
      });
    });
    reduce_team<Sum, Team::threads>(sums, slots + 2 * Team::slots);
    return fmaf(sums[0], log_sum, sums[1]);
  }
}

// The sum of a row of probabilities; the row comes from memory.
template <class Team, bool is_held>
__device__ float row_total(LabelledRow<Team, is_held>& row, float* slots) {
  float total = 0.0f;
  row.template pass<true>(0.0f, [&](const RowPart<Team>&, std::int64_t) {
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < Team::held; ++k) sum += row.v[k];
    total += sum;
  });
  return team_sum<Team>(total, slots);
}

template <class Team, bool is_held, class Targets>
__device__ float loss_from_probabilities(LabelledRow<Team, is_held>& row, const Targets& targets,
                                         float* slots) {
  const float total = row_total(row, slots);
  float loss = 0.0f;
  bool sums_classes = true;
  if constexpr (Targets::sparse) {
    if (targets.extra != 0.0f) loss = -targets.extra * logf(clip(row.x[targets.label] / total));
    sums_classes = targets.offset != 0.0f;
  }
  float sum = 0.0f;
  if (sums_classes) {
    row.template pass<false>(0.0f, [&](const RowPart<Team>& part, std::int64_t begin) {
      part.each([&](int k, int c) {
        sum = fmaf(-targets.at(row.t[k], begin + c), logf(clip(row.v[k] / total)), sum);
      });
    });
  }
  sum = team_sum<Team>(sum, slots + Team::slots);
  return sums_classes ? loss + sum : loss;
}

template <class Team, bool is_held, class Targets>
__device__ void gradient_from_logits(LabelledRow<Team, is_held>& row, const Targets& targets,
                                     float dy, float* slots, float* d_pred) {
  const Exponentials all = exponentials(row, slots);
  float target_sum = 0.0f;
  if constexpr (Targets::sparse) {
    target_sum = fmaf(targets.offset, static_cast<float>(row.size), targets.extra);
  } else {
    row.template pass<false>(minus_infinity, [&](const RowPart<Team>& part, std::int64_t begin) {
      part.each([&](int k, int c) { target_sum += targets.at(row.t[k], begin + c); });
    });
    target_sum = team_sum<Team>(target_sum, slots + 2 * Team::slots);
  }
  const float scale = target_sum / all.total();
  row.template pass<false>(minus_infinity, [&](const RowPart<Team>& part, std::int64_t begin) {
    float d[Team::held];
#pragma unroll
    for (int k = 0; k < Team::held; ++k) d[k] = expf(row.v[k] - all.max) * scale;
    part.each([&](int k, int c) {
      d[k] = (d[k] - targets.at(row.t[k], begin + c)) * dy;
      if constexpr (Targets::sparse) {
        if (begin + c == targets.label) d[k] -= targets.extra * dy;
      }
    });
    part.store(d_pred + begin, d);
  });
}

template <class Team, bool is_held, class Targets>
__device__ void gradient_from_probabilities(LabelledRow<Team, is_held>& row, const Targets& targets,
                                            float dy, float* slots, float* d_pred) {
  const float total = row_total(row, slots);
  float unchanged = 0.0f;
  row.template pass<false>(0.0f, [&](const RowPart<Team>& part, std::int64_t begin) {
    part.each([&](int k, int c) {
      if (clip_keeps(row.v[k] / total)) unchanged += targets.at(row.t[k], begin + c);
    });
  });
  unchanged = team_sum<Team>(unchanged, slots + Team::slots);
  if constexpr (Targets::sparse) {
    if (row.size > 0 && clip_keeps(row.x[targets.label] / total)) unchanged += targets.extra;
  }
  // An infinite sum makes every probability 0 or NaN, and the gradient NaN.
  const float scale = dy / total + (total - total);
  row.template pass<false>(0.0f, [&](const RowPart<Team>& part, std::int64_t begin) {
    float d[Team::held] = {};
    part.each([&](int k, int c) {
      const float p = row.v[k] / total;
      float t = targets.at(row.t[k], begin + c);
      if constexpr (Targets::sparse) {
        if (begin + c == targets.label) t += targets.extra;
      }
      d[k] = (unchanged - (clip_keeps(p) ? t / p : 0.0f)) * scale;
    });
    part.store(d_pred + begin, d);
  });
}

template <class Team, bool is_held, class Targets>
__device__ LabelledRow<Team, is_held> row_of(const Problem& p, const Targets& targets,
                                             std::int64_t row, bool takes_part, bool aligned) {
  LabelledRow<Team, is_held> found;
  found.x = p.y_pred + row * p.classes;
  found.labels = targets.soft_row(row, p.classes);
  found.size = takes_part ? p.classes : 0;
  found.rank = static_cast<int>(threadIdx.x) % Team::threads;
  found.aligned = aligned;
  return found;
}

// Whether the row exists and is not ignored. Its threads take part in all reductions anyway.
__device__ inline bool takes_part(const SparseTargets& targets, std::int64_t row,
                                  const Problem& p) {
  return row < p.rows && !targets.ignored;
}
__device__ inline bool takes_part(const SoftTargets&, std::int64_t row, const Problem& p) {
  return row < p.rows;
}

template <class Team, bool is_held, bool from_logits, class Targets>
__global__ void __launch_bounds__(Team::block)
    forward_rows(const Problem p, const Targets targets, bool aligned, float* loss) {
  __shared__ float slots[4 * Team::slots];
  const std::int64_t number = team_row<Team>();
  const auto row_targets = targets.row(p, number);
  const bool counts = takes_part(row_targets, number, p);
  auto row = row_of<Team, is_held>(p, targets, number, counts, aligned);
  float found;
  if constexpr (from_logits) {
    found = loss_from_logits(row, row_targets, slots);
  } else {
    found = loss_from_probabilities(row, row_targets, slots);
  }
  if (row.rank == 0 && number < p.rows) loss[number] = counts ? found : 0.0f;
}

template <class Team, bool is_held, bool from_logits, class Targets>
__global__ void __launch_bounds__(Team::block)
    backward_rows(const Problem p, const Targets targets, bool aligned, const float* dy,
                  float* d_pred) {
  __shared__ float slots[3 * Team::slots];
  const std::int64_t number = team_row<Team>();
  const auto row_targets = targets.row(p, number);
  const bool counts = takes_part(row_targets, number, p);
  auto row = row_of<Team, is_held>(p, targets, number, counts, aligned);
  float* const out = d_pred + number * p.classes;
  const float gradient = counts ? dy[number] : 0.0f;
  if constexpr (from_logits) {
    gradient_from_logits(row, row_targets, gradient, slots, out);
  } else {
    gradient_from_probabilities(row, row_targets, gradient, slots, out);
  }
  if (counts || number >= p.rows) return;
  for (std::int64_t c = row.rank; c < p.classes; c += Team::threads) out[c] = 0.0f;
}

// choice(RowTeam<...>{}, is held) for rows of so many classes.
template <class Choice>
void with_team(std::int64_t classes, const Choice& choice) {
  using Yes = std::true_type;
  if (classes <= 32) return choice(RowTeam<8, 1>{}, Yes{});
  if (classes <= 128) return choice(RowTeam<32, 1>{}, Yes{});
  if (classes <= 512) return choice(RowTeam<32, 4>{}, Yes{});
  if (classes <= 4096) return choice(RowTeam<256, 4>{}, Yes{});
  if (classes <= 8192) return choice(RowTeam<512, 4>{}, Yes{});
  choice(RowTeam<512, 4>{}, std::false_type{});
}

template <bool from_logits, class Targets>
void forward_of(const Problem& p, const Targets& targets, float* loss) {
  const bool aligned = p.classes % 4 == 0 && aligned_for_vectors(p.y_pred, targets.soft());
  with_team(p.classes, [&](auto team, auto held) {
    using Team = decltype(team);
    launch(op, row_launch<Team>(p.rows),
           forward_rows<Team, decltype(held)::value, from_logits, Targets>, p, targets, aligned,
           loss);
  });
}

template <bool from_logits, class Targets>
void backward_of(const Problem& p, const Targets& targets, const float* dy, float* d_pred) {
  const bool aligned = p.classes % 4 == 0 && aligned_for_vectors(p.y_pred, targets.soft(), d_pred);
  with_team(p.classes, [&](auto team, auto held) {
    using Team = decltype(team);
    launch(op, row_launch<Team>(p.rows),
           backward_rows<Team, decltype(held)::value, from_logits, Targets>, p, targets, aligned,
           dy, d_pred);
  });
}

void sparse_forward(const Problem& p, const SparseLabels& labels, float* loss) {
  p.from_logits ? forward_of<true>(p, Sparse{labels}, loss)
                : forward_of<false>(p, Sparse{labels}, loss);
}

void sparse_backward(const Problem& p, const SparseLabels& labels, const float* dy, float* d_pred) {
  p.from_logits ? backward_of<true>(p, Sparse{labels}, dy, d_pred)
                : backward_of<false>(p, Sparse{labels}, dy, d_pred);
}

void categorical_forward(const Problem& p, const float* labels, float* loss) {
  p.from_logits ? forward_of<true>(p, Soft{labels}, loss)
                : forward_of<false>(p, Soft{labels}, loss);
}

void categorical_backward(const Problem& p, const float* labels, const float* dy, float* d_pred) {
  p.from_logits ? backward_of<true>(p, Soft{labels}, dy, d_pred)
                : backward_of<false>(p, Soft{labels}, dy, d_pred);
}

}  // namespace

extern const Kernels kernels = {sparse_forward, sparse_backward, categorical_forward,
                                categorical_backward};

}  // namespace lamella::crossentropy::device
