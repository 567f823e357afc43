// Batch normalization. What limits it is memory: forward reads x twice (statistics, result) and
// writes y, backward reads x and dy twice and writes dx.
#include "ops/batch_norm/batch_norm.h"

#include "core/memory_pool.h"
#include "simd/channel_sums.h"
#include "simd/parallel_rows.h"

namespace lamella::LAMELLA_ISA {
namespace {

using batch_norm::Backward;
using batch_norm::Forward;

constexpr const char* op = "batch_norm";

// body(i, begin, end): the columns [begin, end) of chunk i.
template <class Body>
LAMELLA_INLINE void each_chunk(const ChannelRows& layout, const Body& body) {
  parallel_rows(layout.chunks, ceil_div(layout.columns, layout.block), layout.chunk * layout.block,
                [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
                  body(i, begin * layout.block, min_i(layout.columns, end * layout.block));
                });
}

// body(channels) for all channels, in parallel where there is much to combine.
template <class Body>
LAMELLA_INLINE void each_channel(const ChannelRows& layout, const Body& body) {
  parallel_rows(
      1, layout.channels, layout.chunks * layout.folds + 1,
      [&](std::int64_t, std::int64_t begin, std::int64_t end) { body(Channels{begin, end}); });
}

void statistics(std::int64_t rows, std::int64_t channels, const float* x, float* mean,
                float* variance) {
  const ChannelRows layout(rows, channels);
  const std::int64_t size = layout.chunks * layout.columns;
  const Scratch<float> scratch(op, 3 * size);
  const Scratch<double> totals(op, 2 * channels);
  const ChunkMoments moments{scratch.get(), scratch.get() + size, scratch.get() + 2 * size};
  each_chunk(layout, [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
    chunk_moments(layout, x, i, begin, end, moments);
  });
  const double share = 1.0 / static_cast<double>(rows);
  double* row_sum = totals.get();
  double* squares = row_sum + channels;
  each_channel(layout, [&](Channels of) {
    sum_channels(layout, x, moments, of, row_sum);
    const auto mean_of = [&](std::int64_t c) { return row_sum[c] * share; };
    sum_squares(layout, x, moments, of, mean_of, squares);
  });
  for (std::int64_t c = 0; c < channels; ++c) {
    mean[c] = static_cast<float>(row_sum[c] * share);
    // Rounding may leave a tiny negative sum where all rows are equal.
    variance[c] = squares[c] < 0.0 ? 0.0f : static_cast<float>(squares[c] * share);
  }
}

double inverse_deviation(float variance, double epsilon) {
  return 1.0 / __builtin_sqrt(static_cast<double>(variance) + epsilon);
}

// body(first, at) for every vector: element `first` begins its row, `at` is its place there.
template <class Body>
LAMELLA_INLINE void each_vector(const ChannelRows& layout, const Body& body) {
  constexpr std::int64_t piece = 1024;
  parallel_rows(layout.folded_rows, ceil_div(layout.columns, piece), min_i(layout.columns, piece),
                [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
                  for_vectors(begin * piece, min_i(layout.columns, end * piece),
                              [&](auto at) { body(row * layout.columns, at); });
                });
  for_vectors(0, layout.rest * layout.channels, [&](auto at) { body(layout.first_rest(), at); });
}

void forward(const Forward& p) {
  const ChannelRows layout(p.rows, p.channels);
  const Scratch<float> coefficients(op, 3 * layout.columns);
  float* mean = coefficients.get();
  float* scale = mean + layout.columns;
  float* shift = scale + layout.columns;
  fill_columns(layout, mean, [&](std::int64_t c) { return p.mean[c]; });
  fill_columns(layout, scale, [&](std::int64_t c) {
    const double r = inverse_deviation(p.variance[c], p.epsilon);
    return p.gamma == nullptr ? r : static_cast<double>(p.gamma[c]) * r;
  });
  fill_columns(layout, shift, [&](std::int64_t c) { return p.beta == nullptr ? 0.0f : p.beta[c]; });
  each_vector(layout, [&](std::int64_t first, auto at) {
    const Float centered = at.get(p.x + first) - at.get(mean);
    at.put(p.y + first, fma(centered, at.get(scale), at.get(shift)));
  });
}

// sums[c] = S, sums[channels + c] = C of batch_norm.h.
void gradient_sums(const ChannelRows& layout, const Backward& p, const float* mean, double* sums) {
  const std::int64_t size = layout.chunks * layout.columns;
  const Scratch<float> scratch(op, 2 * size);
  const ChunkGradients gradients = {scratch.get(), scratch.get() + size};
  each_chunk(layout, [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
    chunk_gradients(layout, p.dy, p.x, mean, i, begin, end, gradients);
  });
  each_channel(layout, [&](Channels of) {
    sum_gradients(layout, p.dy, p.x, mean, gradients, of, sums, sums + p.channels);
  });
}

void backward(const Backward& p) {
  const ChannelRows layout(p.rows, p.channels);
  const Scratch<float> coefficients(op, 4 * layout.columns);
  const Scratch<double> sums(op, 2 * p.channels);
  float* mean = coefficients.get();
  float* slope = mean + layout.columns;  // of dx: slope dy + curve (x - mean) + shift
  float* curve = slope + layout.columns;
  float* shift = curve + layout.columns;
  fill_columns(layout, mean, [&](std::int64_t c) { return p.mean[c]; });
  const bool wants_parameters =
      p.d_gamma != nullptr || p.d_beta != nullptr || p.d_mean != nullptr || p.d_variance != nullptr;
  const bool couples_rows = p.own_statistics && p.dx != nullptr;
  if (wants_parameters || couples_rows) gradient_sums(layout, p, mean, sums.get());

  const auto r = [&](std::int64_t c) { return inverse_deviation(p.variance[c], p.epsilon); };
  const auto factor = [&](std::int64_t c) {
    return p.gamma == nullptr ? r(c) : static_cast<double>(p.gamma[c]) * r(c);
  };
  const auto d_mean = [&](std::int64_t c) { return -factor(c) * sums.get()[c]; };
  const auto d_variance = [&](std::int64_t c) {
    return -0.5 * factor(c) * r(c) * r(c) * sums.get()[p.channels + c];
  };
  const auto store_all = [&](float* out, const auto& value) {
    if (out == nullptr) return;
    for (std::int64_t c = 0; c < p.channels; ++c) out[c] = static_cast<float>(value(c));
  };
  store_all(p.d_gamma, [&](std::int64_t c) { return r(c) * sums.get()[p.channels + c]; });
  store_all(p.d_beta, [&](std::int64_t c) { return sums.get()[c]; });
  store_all(p.d_mean, d_mean);
  store_all(p.d_variance, d_variance);
  if (p.dx == nullptr) return;

  fill_columns(layout, slope, factor);
  if (!p.own_statistics) {
    return each_vector(layout, [&](std::int64_t first, auto at) {
      at.put(p.dx + first, at.get(p.dy + first) * at.get(slope));
    });
  }
  const double share = 1.0 / static_cast<double>(p.rows);
  const auto own = [](const float* gradient, std::int64_t c) {
    return gradient == nullptr ? 0.0 : static_cast<double>(gradient[c]);
  };
  fill_columns(layout, curve, [&](std::int64_t c) {
    return 2.0 * share * (d_variance(c) + own(p.d_own_variance, c));
  });
  fill_columns(layout, shift,
               [&](std::int64_t c) { return share * (d_mean(c) + own(p.d_own_mean, c)); });
  each_vector(layout, [&](std::int64_t first, auto at) {
    const Float centered = at.get(p.x + first) - at.get(mean);
    const Float others = fma(centered, at.get(curve), at.get(shift));
    at.put(p.dx + first, fma(at.get(p.dy + first), at.get(slope), others));
  });
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::batch_norm::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::statistics, kernel::forward, kernel::backward};

}  // namespace lamella::batch_norm::LAMELLA_ISA
