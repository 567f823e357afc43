// The binary cross-entropy on the device: pointwise, then the mean of each row. What limits it is
// memory; from probabilities the two logarithms take about as long.
#include "cuda/kernel.cuh"
#include "cuda/pointwise.cuh"
#include "ops/crossentropy/crossentropy_cuda.cuh"

namespace lamella::crossentropy::device {
namespace {

// t = labels factor + offset
struct Targets {
  const float* labels;
  float factor;
  float offset;

  __device__ float of(float label) const { return fmaf(label, factor, offset); }
};

// -t log p - (1 - t) log(1 - p)
template <bool from_logits>
__device__ float loss_of(float y_pred, float t) {
  if constexpr (from_logits) {
    // log p = z - softplus(z), log(1 - p) = -softplus(z)
    return fmaf(-t, y_pred, fmaxf(0.0f, y_pred)) + log1pf(expf(-fabsf(y_pred)));
  } else {
    const float p = clip(y_pred);
    return -fmaf(t, logf(p), (1.0f - t) * logf(1.0f - p));
  }
}

template <bool from_logits>
__device__ float gradient_of(float y_pred, float t) {
  if constexpr (from_logits) {
    const float e = expf(-fabsf(y_pred));
    return (y_pred < 0.0f ? e : 1.0f) / (1.0f + e) - t;
  } else {
    return clip_keeps(y_pred) ? (y_pred - t) / (y_pred * (1.0f - y_pred)) : 0.0f;
  }
}

// Rows of one class.
template <bool from_logits>
struct LossOfElements {
  const float* y_pred;
  Targets targets;
  float* loss;

  template <int width>
  __device__ void run(std::int64_t i) const {
    const Elements<width> x = load_elements<width>(y_pred, i);
    Elements<width> t = load_elements<width>(targets.labels, i);
#pragma unroll
    for (int k = 0; k < width; ++k) t.v[k] = loss_of<from_logits>(x.v[k], targets.of(t.v[k]));
    store_elements<width>(loss, i, t);
  }
};

template <class Team, bool from_logits>
__global__ void __launch_bounds__(Team::block)
    loss_of_rows(const Problem p, const Targets targets, bool aligned, float* loss) {
  __shared__ float slots[Team::slots];
  const std::int64_t number = team_row<Team>();
  LabelledRow<Team, false> row;
  row.x = p.y_pred + number * p.classes;
  row.labels = targets.labels + number * p.classes;
  row.size = number < p.rows ? p.classes : 0;
  row.rank = static_cast<int>(threadIdx.x) % Team::threads;
  row.aligned = aligned;
  float total = 0.0f;
  row.template pass<true>(0.0f, [&](const RowPart<Team>& part, std::int64_t) {
    float sum = 0.0f;
    part.each([&](int k, int) { sum += loss_of<from_logits>(row.v[k], targets.of(row.t[k])); });
    total += sum;
  });
  total = team_sum<Team>(total, slots);
  if (row.rank == 0 && number < p.rows) loss[number] = total / static_cast<float>(p.classes);
}

template <bool from_logits>
struct Gradient {
  Problem p;
  Targets targets;
  const float* dy;
  float* d_pred;

  template <int width>
  __device__ void run(std::int64_t i) const {
    const Elements<width> x = load_elements<width>(p.y_pred, i);
    Elements<width> t = load_elements<width>(targets.labels, i);
    std::int64_t row = i / p.classes;
    std::int64_t c = i - row * p.classes;
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const float scale = dy[row] / static_cast<float>(p.classes);
      t.v[k] = gradient_of<from_logits>(x.v[k], targets.of(t.v[k])) * scale;
      if (++c < p.classes) continue;
      c = 0;
      ++row;
    }
    store_elements<width>(d_pred, i, t);
  }
};

Targets targets_of(const Problem& p, const float* labels) {
  return {labels, 1.0f - p.smoothing, 0.5f * p.smoothing};
}

template <class Team, bool from_logits>
void launch_rows(const Problem& p, const Targets& targets, bool aligned, float* loss) {
  launch(op, row_launch<Team>(p.rows), loss_of_rows<Team, from_logits>, p, targets, aligned, loss);
}

template <bool from_logits>
void forward_of(const Problem& p, const float* labels, float* loss) {
  const Targets targets = targets_of(p, labels);
  const bool aligned = aligned_for_vectors(p.y_pred, labels, loss);
  if (p.classes == 1) {
    return pointwise(op, p.rows, aligned, LossOfElements<from_logits>{p.y_pred, targets, loss});
  }
  const bool vectors = p.classes % 4 == 0 && aligned;
  if (p.classes <= 64) return launch_rows<RowTeam<8, 1>, from_logits>(p, targets, vectors, loss);
  if (p.classes <= 1024) return launch_rows<RowTeam<32, 2>, from_logits>(p, targets, vectors, loss);
  launch_rows<RowTeam<256, 2>, from_logits>(p, targets, vectors, loss);
}

template <bool from_logits>
void backward_of(const Problem& p, const float* labels, const float* dy, float* d_pred) {
  pointwise(op, p.rows * p.classes, aligned_for_vectors(p.y_pred, labels, d_pred),
            Gradient<from_logits>{p, targets_of(p, labels), dy, d_pred});
}

void forward(const Problem& p, const float* labels, float* loss) {
  p.from_logits ? forward_of<true>(p, labels, loss) : forward_of<false>(p, labels, loss);
}

void backward(const Problem& p, const float* labels, const float* dy, float* d_pred) {
  p.from_logits ? backward_of<true>(p, labels, dy, d_pred)
                : backward_of<false>(p, labels, dy, d_pred);
}

}  // namespace
}  // namespace lamella::crossentropy::device

namespace lamella::crossentropy::binary::device {

extern const Kernels kernels = {lamella::crossentropy::device::forward,
                                lamella::crossentropy::device::backward};

}  // namespace lamella::crossentropy::binary::device
