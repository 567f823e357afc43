// Group normalization on the device. What limits it is memory. A run of up to 16384 elements lies
// in a block's registers between one read and one write, if its rows are whole sectors of 32 bytes.
// Else, and backward, the channels of each image are summed as batch_norm does it
// (channel_sums.cuh) and the arrays are read a second time for the result.
#include "cuda/channel_sums.cuh"
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "cuda/row_team.cuh"
#include "ops/group_norm/group_norm.h"

namespace lamella::group_norm::device {
namespace {

using namespace lamella::device;

constexpr const char* op = "group_norm";

__device__ inline float value_or(const float* values, std::int64_t c, float absent) {
  return values == nullptr ? absent : values[c];
}

__device__ inline void save(const Statistics& saved, std::int64_t run, float center, float scale,
                            float shift) {
  saved.center[run] = center;
  saved.scale[run] = scale;
  saved.shift[run] = shift;
}

// A run a team, in registers. Vector i of thread `rank` has the elements 4 (i threads + rank) .. of
// the run, which are four neighbours of one row.
template <class Team>
__global__ void __launch_bounds__(Team::block) forward_runs(const Forward p, int size) {
  __shared__ float slots[3 * Team::slots];
  const Images& shape = p.shape;
  const int group_size = static_cast<int>(shape.channels / shape.groups);
  const std::int64_t run = team_row<Team>();
  const bool is_run = run < shape.images * shape.groups;
  const int rank = static_cast<int>(threadIdx.x) % Team::threads;
  const std::int64_t image = run / shape.groups;
  const std::int64_t channel = run % shape.groups * group_size;
  const std::int64_t first = image * shape.rows * shape.channels + channel;
  const auto is_inside = [&](int i) { return is_run && 4 * (i * Team::threads + rank) < size; };
  const auto column_of = [&](int i) { return 4 * (i * Team::threads + rank) % group_size; };
  const auto element_of = [&](int i) {
    const int row = 4 * (i * Team::threads + rank) / group_size;
    return first + row * shape.channels + column_of(i);
  };
  Elements<4> v[Team::vectors];
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < Team::vectors; ++i) {
    v[i] = {};
    if (is_inside(i)) v[i] = load_elements<4>(p.x, element_of(i));
  }
#pragma unroll
  for (int i = 0; i < Team::vectors; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) total += v[i].v[j];
  }
  const float center = team_sum<Team>(total, slots) / static_cast<float>(size);
  float sums[2] = {0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < Team::vectors; ++i) {
    if (!is_inside(i)) continue;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float d = v[i].v[j] - center;
      v[i].v[j] = d;
      sums[0] += d;
      sums[1] = fmaf(d, d, sums[1]);
    }
  }
  reduce_team<Sum, Team::threads>(sums, slots + Team::slots);
  const double offset = static_cast<double>(sums[0]) / size;
  const double variance = static_cast<double>(sums[1]) / size - offset * offset;
  // Rounding may leave a tiny negative variance where all elements are equal.
  const double r = 1.0 / sqrt((variance < 0.0 ? 0.0 : variance) + p.epsilon);
  const float scale = static_cast<float>(r);
  const float shift = static_cast<float>(-offset * r);
  if (rank == 0 && is_run && p.saved.scale != nullptr) save(p.saved, run, center, scale, shift);
#pragma unroll
  for (int i = 0; i < Team::vectors; ++i) {
    if (!is_inside(i)) continue;
    const std::int64_t c = channel + column_of(i);
    Elements<4> y;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      y.v[j] = fmaf(fmaf(v[i].v[j], scale, shift), value_or(p.gamma, c + j, 1.0f),
                    value_or(p.beta, c + j, 0.0f));
    }
    store_elements<4>(p.y, element_of(i), y);
  }
}

// Launches forward_runs if there is a team for runs of this size; false if not.
bool forward_held(const Forward& p) {
  const Images& shape = p.shape;
  const std::int64_t group_size = shape.channels / shape.groups;
  if (group_size % 4 != 0 || (group_size < 8 && shape.groups > 1)) return false;
  if (!aligned_for_vectors(p.x, p.y)) return false;
  const std::int64_t size = shape.rows * group_size;
  const auto launch_runs = [&](auto team) {
    using Team = decltype(team);
    const std::int64_t blocks = ceil_div<std::int64_t>(shape.images * shape.groups, Team::rows);
    launch(op, {dim3(static_cast<unsigned>(blocks)), dim3(Team::block)}, forward_runs<Team>, p,
           static_cast<int>(size));
  };
  if (size <= RowTeam<32, 4>::capacity) return launch_runs(RowTeam<32, 4>{}), true;
  if (size <= RowTeam<128, 4>::capacity) return launch_runs(RowTeam<128, 4>{}), true;
  if (size <= RowTeam<512, 4>::capacity) return launch_runs(RowTeam<512, 4>{}), true;
  if (size <= RowTeam<512, 8>::capacity) return launch_runs(RowTeam<512, 8>{}), true;
  return false;
}

struct PutTotals {
  std::int64_t channels;
  ChannelTotals* totals;  // (images, channels)

  __device__ void operator()(std::int64_t image, std::int64_t c, const ChannelTotals& of) const {
    totals[image * channels + c] = of;
  }
};

// A warp a run.
using RunTeam = RowTeam<32, 1>;

Launch run_launch(const Images& shape) {
  const std::int64_t blocks = ceil_div<std::int64_t>(shape.images * shape.groups, RunTeam::rows);
  return {dim3(static_cast<unsigned>(blocks)), dim3(RunTeam::block)};
}

// The sum of value(channel) over a run's channels, in double and the same in all lanes.
template <class Value>
__device__ double sum_of_run(const Images& shape, std::int64_t run, const Value& value) {
  const std::int64_t size = shape.channels / shape.groups;
  const std::int64_t first = run % shape.groups * size;
  double sum = 0.0;
  if (run < shape.images * shape.groups) {
    for (std::int64_t c = lane_index(); c < size; c += warp_size) sum += value(first + c);
  }
  return warp_sum(sum);
}

// The statistics of runs from those of their channels.
__global__ void __launch_bounds__(RunTeam::block)
    measure_runs(const Forward p, const ChannelTotals* totals, const Statistics out) {
  const Images& shape = p.shape;
  const std::int64_t run = team_row<RunTeam>();
  const ChannelTotals* const own = totals + run / shape.groups * shape.channels;
  const double size = static_cast<double>(shape.channels / shape.groups);
  const double rows = static_cast<double>(shape.rows);
  const double mean = sum_of_run(shape, run, [&](std::int64_t c) { return own[c].mean; }) / size;
  const double squares = sum_of_run(shape, run, [&](std::int64_t c) {
    const double shift = own[c].mean - mean;
    return own[c].squares + rows * shift * shift;
  });
  const double scale = 1.0 / sqrt(squares / (rows * size) + p.epsilon);
  const float center = static_cast<float>(mean);
  if (lane_index() > 0 || run >= shape.images * shape.groups) return;
  save(out, run, center, static_cast<float>(scale),
       static_cast<float>((static_cast<double>(center) - mean) * scale));
}

struct Normalization {
  Images shape;
  const float* gamma;
  const float* beta;
  Statistics runs;

  __device__ NormalizedBy of(std::int64_t image, std::int64_t c) const {
    const std::int64_t run = image * shape.groups + c / (shape.channels / shape.groups);
    const float factor = value_or(gamma, c, 1.0f);
    return {runs.center[run], factor * runs.scale[run],
            fmaf(factor, runs.shift[run], value_or(beta, c, 0.0f))};
  }
};

template <int width>
void forward_channels(const Forward& p) {
  const Images& shape = p.shape;
  const std::int64_t runs = shape.images * shape.groups;
  const Scratch<float> scratch(op, p.saved.scale == nullptr ? 3 * runs : 0);
  const Statistics statistics =
      p.saved.scale == nullptr
          ? Statistics{scratch.get(), scratch.get() + runs, scratch.get() + 2 * runs}
          : p.saved;
  {
    const ChannelTile tile =
        channel_tile(shape.images, shape.rows, shape.channels, width, summed_rows);
    const Scratch<ChunkMoments> moments(op, shape.images * tile.chunks * shape.channels);
    const Scratch<ChannelTotals> totals(op, shape.images * shape.channels);
    launch(op, tile.launch(), measure_channels<width>, tile, p.x, moments.get());
    launch(op, combine_launch(tile), combine_moments<PutTotals>, tile, moments.get(),
           PutTotals{shape.channels, totals.get()});
    launch(op, run_launch(shape), measure_runs, p, totals.get(), statistics);
  }
  const ChannelTile tile =
      channel_tile(shape.images, shape.rows, shape.channels, width, written_rows);
  launch(op, tile.launch(), normalize_channels<width, Normalization>, tile,
         Normalization{shape, p.gamma, p.beta, statistics}, p.x, p.y);
}

void forward(const Forward& p) {
  if (p.shape.images == 0 || forward_held(p)) return;
  p.shape.channels % 4 == 0 && aligned_for_vectors(p.x, p.y) ? forward_channels<4>(p)
                                                             : forward_channels<1>(p);
}

// Of each channel of an image, the sums over rows of dy and of dy n.
struct PutSums {
  Images shape;
  Statistics saved;
  ChannelGradients* sums;  // (images, channels)

  __device__ void operator()(std::int64_t image, std::int64_t c, const ChannelGradients& of) const {
    const std::int64_t run = image * shape.groups + c / (shape.channels / shape.groups);
    sums[image * shape.channels + c] = {of.plain,
                                        of.centered * static_cast<double>(saved.scale[run]) +
                                            of.plain * static_cast<double>(saved.shift[run])};
  }
};

// dx = dy gamma scale + (x - center) curve + term
struct RunGradient {
  float curve;
  float term;
};

__global__ void __launch_bounds__(RunTeam::block)
    measure_run_gradients(const Backward p, const ChannelGradients* sums, RunGradient* out) {
  const Images& shape = p.shape;
  const std::int64_t run = team_row<RunTeam>();
  const bool is_run = run < shape.images * shape.groups;
  const ChannelGradients* const own = sums + run / shape.groups * shape.channels;
  const double count =
      static_cast<double>(shape.rows) * static_cast<double>(shape.channels / shape.groups);
  const auto gamma = [&](std::int64_t c) {
    return static_cast<double>(value_or(p.gamma, c, 1.0f));
  };
  const double plain =
      sum_of_run(shape, run, [&](std::int64_t c) { return gamma(c) * own[c].plain; }) / count;
  const double normal =
      sum_of_run(shape, run, [&](std::int64_t c) { return gamma(c) * own[c].centered; }) / count;
  if (lane_index() > 0 || !is_run) return;
  const double scale = static_cast<double>(p.saved.scale[run]);
  const double shift = static_cast<double>(p.saved.shift[run]);
  out[run] = {static_cast<float>(-scale * scale * normal),
              static_cast<float>(-scale * (plain + shift * normal))};
}

struct InputGradient {
  Backward p;
  const RunGradient* runs;

  __device__ GradientBy of(std::int64_t image, std::int64_t c) const {
    const std::int64_t run = image * p.shape.groups + c / (p.shape.channels / p.shape.groups);
    return {p.saved.center[run], value_or(p.gamma, c, 1.0f) * p.saved.scale[run], runs[run].curve,
            runs[run].term};
  }
};

struct PutParameters {
  float* dgamma;
  float* dbeta;

  __device__ void operator()(std::int64_t, std::int64_t c, const ChannelGradients& of) const {
    if (dgamma != nullptr) dgamma[c] = static_cast<float>(of.centered);
    if (dbeta != nullptr) dbeta[c] = static_cast<float>(of.plain);
  }
};

template <int width>
void backward_channels(const Backward& p) {
  const Images& shape = p.shape;
  const Scratch<ChannelGradients> sums(op, shape.images * shape.channels);
  {
    const ChannelTile tile =
        channel_tile(shape.images, shape.rows, shape.channels, width, summed_rows);
    const Scratch<ChannelGradients> gradients(op, shape.images * tile.chunks * shape.channels);
    const Centers centers = {p.saved.center, shape.channels / shape.groups};
    launch(op, tile.launch(), add_channel_gradients<width>, tile, centers, p.dy, p.x,
           gradients.get());
    launch(op, combine_launch(tile), combine_gradients<PutSums>, tile, gradients.get(),
           PutSums{shape, p.saved, sums.get()});
  }
  if (p.dgamma != nullptr || p.dbeta != nullptr) {
    // The images are the chunks of one.
    const ChannelTile tile = {1, shape.images, shape.channels, 0, 0, 0, 1, shape.images};
    launch(op, combine_launch(tile), combine_gradients<PutParameters>, tile, sums.get(),
           PutParameters{p.dgamma, p.dbeta});
  }
  if (p.dx == nullptr) return;
  const Scratch<RunGradient> runs(op, shape.images * shape.groups);
  launch(op, run_launch(shape), measure_run_gradients, p, sums.get(), runs.get());
  const ChannelTile tile =
      channel_tile(shape.images, shape.rows, shape.channels, width, written_rows);
  launch(op, tile.launch(), put_channel_gradients<width, true, InputGradient>, tile,
         InputGradient{p, runs.get()}, p.dy, p.x, p.dx);
}

void backward(const Backward& p) {
  p.shape.channels % 4 == 0 && aligned_for_vectors(p.dy, p.x, p.dx) ? backward_channels<4>(p)
                                                                    : backward_channels<1>(p);
}

}  // namespace

extern const Kernels kernels = {forward, backward};

}  // namespace lamella::group_norm::device
