// Batch normalization on the device. What limits it is memory: forward reads x twice (statistics,
// result) and writes y, backward reads x and dy twice and writes dx.
#include "cuda/channel_sums.cuh"
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "cuda/row_team.cuh"
#include "ops/batch_norm/batch_norm.h"

namespace lamella::batch_norm::device {
namespace {

using namespace lamella::device;

constexpr const char* op = "batch_norm";

struct PutStatistics {
  double rows;
  float* mean;
  float* variance;

  __device__ void operator()(std::int64_t, std::int64_t c, const ChannelTotals& totals) const {
    mean[c] = static_cast<float>(totals.mean);
    variance[c] = static_cast<float>(totals.squares / rows);
  }
};

template <int width>
void statistics_of(std::int64_t rows, std::int64_t channels, const float* x, float* mean,
                   float* variance) {
  const ChannelTile tile = channel_tile(1, rows, channels, width, summed_rows);
  const Scratch<ChunkMoments> moments(op, tile.chunks * channels);
  launch(op, tile.launch(), measure_channels<width>, tile, x, moments.get());
  launch(op, combine_launch(tile), combine_moments<PutStatistics>, tile, moments.get(),
         PutStatistics{static_cast<double>(rows), mean, variance});
}

void statistics(std::int64_t rows, std::int64_t channels, const float* x, float* mean,
                float* variance) {
  channels % 4 == 0 && aligned_for_vectors(x) ? statistics_of<4>(rows, channels, x, mean, variance)
                                              : statistics_of<1>(rows, channels, x, mean, variance);
}

__device__ inline double inverse_deviation(float variance, double epsilon) {
  return 1.0 / sqrt(static_cast<double>(variance) + epsilon);
}

__device__ inline double value_or(const float* values, std::int64_t c, double absent) {
  return values == nullptr ? absent : static_cast<double>(values[c]);
}

struct Normalization {
  Forward p;

  __device__ NormalizedBy of(std::int64_t, std::int64_t c) const {
    const double r = inverse_deviation(p.variance[c], p.epsilon);
    return {p.mean[c], static_cast<float>(value_or(p.gamma, c, 1.0) * r),
            p.beta == nullptr ? 0.0f : p.beta[c]};
  }
};

template <int width>
void forward_of(const Forward& p) {
  const ChannelTile tile = channel_tile(1, p.rows, p.channels, width, written_rows);
  launch(op, tile.launch(), normalize_channels<width, Normalization>, tile, Normalization{p}, p.x,
         p.y);
}

void forward(const Forward& p) {
  if (p.rows == 0) return;
  p.channels % 4 == 0 && aligned_for_vectors(p.x, p.y) ? forward_of<4>(p) : forward_of<1>(p);
}

// Gradients of the parameters, and dx = dy slope + (x - mean) curve + term.
struct PutGradients {
  Backward p;
  float* curve;  // (channels), as the other; null where not wanted
  float* term;

  __device__ void operator()(std::int64_t, std::int64_t c, const ChannelGradients& sums) const {
    const double r = inverse_deviation(p.variance[c], p.epsilon);
    const double factor = value_or(p.gamma, c, 1.0) * r;
    const double d_mean = -factor * sums.plain;
    const double d_variance = -0.5 * factor * r * r * sums.centered;
    if (p.d_gamma != nullptr) p.d_gamma[c] = static_cast<float>(r * sums.centered);
    if (p.d_beta != nullptr) p.d_beta[c] = static_cast<float>(sums.plain);
    if (p.d_mean != nullptr) p.d_mean[c] = static_cast<float>(d_mean);
    if (p.d_variance != nullptr) p.d_variance[c] = static_cast<float>(d_variance);
    if (curve == nullptr) return;
    const double share = 1.0 / static_cast<double>(p.rows);
    curve[c] = static_cast<float>(2.0 * share * (d_variance + value_or(p.d_own_variance, c, 0.0)));
    term[c] = static_cast<float>(share * (d_mean + value_or(p.d_own_mean, c, 0.0)));
  }
};

struct InputGradient {
  Backward p;
  const float* curve;
  const float* term;

  __device__ GradientBy of(std::int64_t, std::int64_t c) const {
    const double r = inverse_deviation(p.variance[c], p.epsilon);
    const float slope = static_cast<float>(value_or(p.gamma, c, 1.0) * r);
    if (curve == nullptr) return {0.0f, slope, 0.0f, 0.0f};
    return {p.mean[c], slope, curve[c], term[c]};
  }
};

template <int width>
void backward_of(const Backward& p) {
  const bool wants_parameters =
      p.d_gamma != nullptr || p.d_beta != nullptr || p.d_mean != nullptr || p.d_variance != nullptr;
  const bool couples = p.own_statistics && p.dx != nullptr;
  const Scratch<float> coefficients(op, couples ? 2 * p.channels : 0);
  float* const curve = coefficients.get();
  float* const term = couples ? curve + p.channels : nullptr;
  if (wants_parameters || couples) {
    const ChannelTile tile = channel_tile(1, p.rows, p.channels, width, summed_rows);
    const Scratch<ChannelGradients> gradients(op, tile.chunks * p.channels);
    launch(op, tile.launch(), add_channel_gradients<width>, tile, Centers{p.mean, 1}, p.dy, p.x,
           gradients.get());
    launch(op, combine_launch(tile), combine_gradients<PutGradients>, tile, gradients.get(),
           PutGradients{p, curve, term});
  }
  if (p.dx == nullptr) return;
  const ChannelTile tile = channel_tile(1, p.rows, p.channels, width, written_rows);
  const InputGradient by = {p, curve, term};
  couples ? launch(op, tile.launch(), put_channel_gradients<width, true, InputGradient>, tile, by,
                   p.dy, p.x, p.dx)
          : launch(op, tile.launch(), put_channel_gradients<width, false, InputGradient>, tile, by,
                   p.dy, p.x, p.dx);
}

void backward(const Backward& p) {
  p.channels % 4 == 0 && aligned_for_vectors(p.dy, p.x, p.dx) ? backward_of<4>(p)
                                                              : backward_of<1>(p);
}

}  // namespace

extern const Kernels kernels = {statistics, forward, backward};

}  // namespace lamella::batch_norm::device
