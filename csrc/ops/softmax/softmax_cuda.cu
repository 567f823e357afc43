// softmax and log_softmax on the device along the last axis (softmax_cuda_columns.cu: along
// others). What limits them is memory. Rows of up to 16384 elements lie in registers between one
// read and one write. Longer ones are read twice, the second time backwards, so that what was read
// last is met first, in L1 and L2. A few long rows are cut into pieces for all multiprocessors.
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "cuda/row_team.cuh"
#include "ops/softmax/softmax_cuda.cuh"

namespace lamella::softmax::device {
namespace {

using namespace lamella::device;

struct Rows {
  std::int64_t rows;
  std::int64_t size;
  bool aligned;
};

template <class Team>
__device__ RowPart<Team> whole_row(const Rows& shape, std::int64_t row) {
  const int rank = static_cast<int>(threadIdx.x) % Team::threads;
  return {rank, row < shape.rows ? static_cast<int>(shape.size) : 0, shape.aligned};
}

template <class Team, bool logarithm>
__global__ void __launch_bounds__(Team::block)
    forward_rows(const Rows shape, const float* x, float* y) {
  __shared__ float slots[2 * Team::slots];
  const std::int64_t row = team_row<Team>();
  const RowPart<Team> part = whole_row<Team>(shape, row);
  float v[Team::held];
  part.load(x + row * shape.size, minus_infinity, v);
  float most = v[0];
#pragma unroll
  for (int k = 1; k < Team::held; ++k) most = fmaxf(most, v[k]);
  most = team_maximum<Team>(most, slots);
  float total = 0.0f;
#pragma unroll
  for (int k = 0; k < Team::held; ++k) {
    v[k] = v[k] - most;
    const float e = expf(v[k]);
    if constexpr (!logarithm) v[k] = e;
    total += e;
  }
  total = team_sum<Team>(total, slots + Team::slots);
  const float factor = normalizer<logarithm>(total);
#pragma unroll
  for (int k = 0; k < Team::held; ++k) v[k] = logarithm ? v[k] - factor : v[k] * factor;
  part.store(y + row * shape.size, v);
}

template <class Team, bool logarithm>
__global__ void __launch_bounds__(Team::block)
    backward_rows(const Rows shape, const float* dy, const float* y, float* dx) {
  __shared__ float slots[Team::slots];
  const std::int64_t row = team_row<Team>();
  const RowPart<Team> part = whole_row<Team>(shape, row);
  float gradient[Team::held], result[Team::held];
  part.load(dy + row * shape.size, 0.0f, gradient);
  part.load(y + row * shape.size, 0.0f, result);
  float total = 0.0f;
#pragma unroll
  for (int k = 0; k < Team::held; ++k) {
    total = logarithm ? total + gradient[k] : fmaf(gradient[k], result[k], total);
  }
  total = team_sum<Team>(total, slots);
#pragma unroll
  for (int k = 0; k < Team::held; ++k) {
    gradient[k] = input_gradient<logarithm>(gradient[k], result[k], total);
  }
  part.store(dx + row * shape.size, gradient);
}

// Rows longer than a team's registers, a segment of that many at a time.
using Segment = RowTeam<512, 4>;

// How a row is cut for several blocks. `pieces` is 1 where there are rows enough.
struct Pieces {
  Rows shape;
  std::int64_t piece;  // elements, a multiple of a segment
  int pieces;          // of a row, at most the threads of a block
};

Pieces cut(const Rows& shape) {
  const std::int64_t segments = ceil_div<std::int64_t>(shape.size, Segment::capacity);
  const std::int64_t wanted = std::int64_t{properties().multiprocessors} * 4;
  const std::int64_t most = smaller<std::int64_t>(segments, Segment::threads);
  const std::int64_t pieces = larger<std::int64_t>(
      1, smaller(most, shape.rows * 2 >= wanted ? 1 : ceil_div(wanted, shape.rows)));
  const std::int64_t each = ceil_div(segments, pieces);
  return {shape, each * Segment::capacity, static_cast<int>(ceil_div(segments, each))};
}

// The two passes over a piece are one launch where it is the whole row, else two.
enum class Pass { both, first, second };

// Segment i of the piece that is the block's work, and where it begins.
struct Place {
  std::int64_t row;
  std::int64_t begin;  // of the piece in the row
  std::int64_t end;
  int segments;

  __device__ explicit Place(const Pieces& cuts)
      : row(blockIdx.x / static_cast<unsigned>(cuts.pieces)),
        begin(blockIdx.x % static_cast<unsigned>(cuts.pieces) * cuts.piece),
        end(smaller(cuts.shape.size, begin + cuts.piece)),
        segments(static_cast<int>(ceil_div<std::int64_t>(end - begin, Segment::capacity))) {}

  __device__ std::int64_t first(int segment) const {
    return begin + std::int64_t{segment} * Segment::capacity;
  }
  __device__ RowPart<Segment> part(int segment, bool aligned) const {
    const std::int64_t rest = end - first(segment);
    return {static_cast<int>(threadIdx.x),
            static_cast<int>(smaller<std::int64_t>(rest, Segment::capacity)), aligned};
  }
};

__device__ Exponentials combined(const Exponentials& own, float* slots) {
  const float most = team_maximum<Segment>(own.max, slots);
  return {most, team_sum<Segment>(rescaled(own, most), slots + Segment::slots)};
}

template <bool logarithm>
__global__ void __launch_bounds__(Segment::block)
    forward_long_rows(const Pieces cuts, Pass pass, const float* x, Exponentials* sums, float* y) {
  __shared__ float slots[2 * Segment::slots];
  const Place place(cuts);
  const float* const row = x + place.row * cuts.shape.size;
  float* const out = y + place.row * cuts.shape.size;
  Exponentials own;
  if (pass == Pass::second) {
    const Exponentials* const of_row = sums + place.row * cuts.pieces;
    if (static_cast<int>(threadIdx.x) < cuts.pieces) own = of_row[threadIdx.x];
  } else {
    for (int s = 0; s < place.segments; ++s) {
      float v[Segment::held];
      place.part(s, cuts.shape.aligned).load(row + place.first(s), minus_infinity, v);
      own.add(v);
    }
  }
  const Exponentials all = combined(own, slots);
  if (pass == Pass::first) {
    if (threadIdx.x == 0) sums[blockIdx.x] = all;
    return;
  }
  const float factor = normalizer<logarithm>(all.total());
  for (int s = place.segments - 1; s >= 0; --s) {
    const RowPart<Segment> part = place.part(s, cuts.shape.aligned);
    float v[Segment::held];
    part.load(row + place.first(s), minus_infinity, v);
#pragma unroll
    for (int k = 0; k < Segment::held; ++k) {
      v[k] = logarithm ? (v[k] - all.max) - factor : expf(v[k] - all.max) * factor;
    }
    part.store(out + place.first(s), v);
  }
}

template <bool logarithm>
__global__ void __launch_bounds__(Segment::block)
    backward_long_rows(const Pieces cuts, Pass pass, const float* dy, const float* y, float* sums,
                       float* dx) {
  __shared__ float slots[Segment::slots];
  const Place place(cuts);
  const std::int64_t start = place.row * cuts.shape.size;
  float own = 0.0f;
  if (pass == Pass::second) {
    const float* const of_row = sums + place.row * cuts.pieces;
    if (static_cast<int>(threadIdx.x) < cuts.pieces) own = of_row[threadIdx.x];
  } else {
    for (int s = 0; s < place.segments; ++s) {
      const RowPart<Segment> part = place.part(s, cuts.shape.aligned);
      float gradient[Segment::held], result[Segment::held];
      part.load(dy + start + place.first(s), 0.0f, gradient);
      if constexpr (!logarithm) part.load(y + start + place.first(s), 0.0f, result);
      float sum = 0.0f;
#pragma unroll
      for (int k = 0; k < Segment::held; ++k) {
        sum = logarithm ? sum + gradient[k] : fmaf(gradient[k], result[k], sum);
      }
      own += sum;
    }
  }
  const float total = team_sum<Segment>(own, slots);
  if (pass == Pass::first) {
    if (threadIdx.x == 0) sums[blockIdx.x] = total;
    return;
  }
  for (int s = place.segments - 1; s >= 0; --s) {
    const RowPart<Segment> part = place.part(s, cuts.shape.aligned);
    float gradient[Segment::held], result[Segment::held];
    part.load(dy + start + place.first(s), 0.0f, gradient);
    part.load(y + start + place.first(s), 0.0f, result);
#pragma unroll
    for (int k = 0; k < Segment::held; ++k) {
      gradient[k] = input_gradient<logarithm>(gradient[k], result[k], total);
    }
    part.store(dx + start + place.first(s), gradient);
  }
}

// launch_pass(pass, sums) once, or twice with the pieces' sums in between.
template <class Sum, class LaunchPass>
void launch_passes(const Pieces& cuts, const LaunchPass& launch_pass) {
  if (cuts.pieces == 1) return launch_pass(Pass::both, nullptr);
  const Scratch<Sum> sums(op, cuts.shape.rows * cuts.pieces);
  launch_pass(Pass::first, sums.get());
  launch_pass(Pass::second, sums.get());
}

template <class Team>
Launch row_launch(std::int64_t rows) {
  return {dim3(static_cast<unsigned>(ceil_div<std::int64_t>(rows, Team::rows))), dim3(Team::block)};
}

Launch piece_launch(const Pieces& cuts) {
  return {dim3(static_cast<unsigned>(cuts.shape.rows * cuts.pieces)), dim3(Segment::block)};
}

template <bool logarithm>
void forward_last_axis(const Axis& axis, const float* x, float* y) {
  const Rows shape = {axis.outer, axis.size, axis.size % 4 == 0 && aligned_for_vectors(x, y)};
  const bool held = with_row_team(axis.size, [&](auto team) {
    using Team = decltype(team);
    launch(op, row_launch<Team>(shape.rows), forward_rows<Team, logarithm>, shape, x, y);
  });
  if (held || shape.rows == 0) return;
  const Pieces cuts = cut(shape);
  launch_passes<Exponentials>(cuts, [&](Pass pass, Exponentials* sums) {
    launch(op, piece_launch(cuts), forward_long_rows<logarithm>, cuts, pass, x, sums, y);
  });
}

template <bool logarithm>
void backward_last_axis(const Axis& axis, const float* dy, const float* y, float* dx) {
  const Rows shape = {axis.outer, axis.size, axis.size % 4 == 0 && aligned_for_vectors(dy, y, dx)};
  const bool held = with_row_team(axis.size, [&](auto team) {
    using Team = decltype(team);
    launch(op, row_launch<Team>(shape.rows), backward_rows<Team, logarithm>, shape, dy, y, dx);
  });
  if (held || shape.rows == 0) return;
  const Pieces cuts = cut(shape);
  launch_passes<float>(cuts, [&](Pass pass, float* sums) {
    launch(op, piece_launch(cuts), backward_long_rows<logarithm>, cuts, pass, dy, y, sums, dx);
  });
}

template <bool logarithm>
void forward_axis(const Axis& axis, const float* x, float* y) {
  axis.inner == 1 ? forward_last_axis<logarithm>(axis, x, y)
                  : forward_columns<logarithm>(axis, x, y);
}

template <bool logarithm>
void backward_axis(const Axis& axis, const float* dy, const float* y, float* dx) {
  axis.inner == 1 ? backward_last_axis<logarithm>(axis, dy, y, dx)
                  : backward_columns<logarithm>(axis, dy, y, dx);
}

void forward(const Axis& axis, bool logarithm, const float* x, float* y) {
  logarithm ? forward_axis<true>(axis, x, y) : forward_axis<false>(axis, x, y);
}

void backward(const Axis& axis, bool logarithm, const float* dy, const float* y, float* dx) {
  logarithm ? backward_axis<true>(axis, dy, y, dx) : backward_axis<false>(axis, dy, y, dx);
}

}  // namespace

extern const Kernels kernels = {forward, backward};

}  // namespace lamella::softmax::device
