// layer_norm and rms_norm on the device, forward. What limits them is memory: rows of up to 16384
// elements lie in registers between one read and one write. Longer ones are cut into pieces of that
// size, and read twice: for the pieces' statistics, and for the result.
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "ops/layer_norm/layer_norm_cuda.cuh"

namespace lamella::layer_norm::device {
namespace {

// What the rows of one call have in common.
struct Common {
  Forward p;
  float epsilon;
  bool aligned;
};

// The elements of s, which are written where there is a residual. `first`: of the array.
template <class Team>
__device__ void load_sum(const Forward& p, const RowPart<Team>& part, std::int64_t first,
                         float (&v)[Team::held]) {
  part.load(p.x + first, 0.0f, v);
  if (p.residual == nullptr) return;
#pragma unroll
  for (int i = 0; i < Team::vectors; ++i) {
    float q[4];
    part.load_vector(p.residual + first, i, 0.0f, q);
#pragma unroll
    for (int j = 0; j < 4; ++j) v[4 * i + j] += q[j];
  }
  part.store(p.s + first, v);
}

// v from here on holds the distances from the returned center: 0 for rms_norm, and 0 behind the
// row's end. `sums`: of the distances and of their squares.
template <class Team, bool centered>
__device__ float center_row(const RowPart<Team>& part, float (&v)[Team::held], float (&sums)[2],
                            float* slots) {
  float center = 0.0f;
  if constexpr (centered) {
    float total = 0.0f;
#pragma unroll
    for (int k = 0; k < Team::held; ++k) total += v[k];
    center = team_sum<Team>(total, slots) / static_cast<float>(part.size);
    part.each([&](int k, int) { v[k] -= center; });
  }
  sums[0] = sums[1] = 0.0f;
#pragma unroll
  for (int k = 0; k < Team::held; ++k) {
    if constexpr (centered) sums[0] += v[k];
    sums[1] = fmaf(v[k], v[k], sums[1]);
  }
  reduce_team<Sum, Team::threads>(sums, slots + Team::slots);
  return center;
}

struct Normal {
  float center;
  float scale;
  float shift;
};

template <bool centered>
__device__ void save(const Statistics& saved, std::int64_t row, const Normal& normal) {
  if (saved.scale == nullptr) return;
  saved.scale[row] = normal.scale;
  if constexpr (centered) {
    saved.center[row] = normal.center;
    saved.shift[row] = normal.shift;
  }
}

// y from v, the distances from normal.center. `first`: of the array, `column`: of the part.
template <class Team, bool centered>
__device__ void put_result(const Forward& p, const RowPart<Team>& part, std::int64_t first,
                           std::int64_t column, const Normal& normal,
                           const float (&v)[Team::held]) {
#pragma unroll
  for (int i = 0; i < Team::vectors; ++i) {
    float gamma[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    float beta[4] = {};
    if (p.gamma != nullptr) part.load_vector(p.gamma + column, i, 0.0f, gamma);
    if (centered && p.beta != nullptr) part.load_vector(p.beta + column, i, 0.0f, beta);
    float y[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float d = v[4 * i + j];
      y[j] = centered ? fmaf(fmaf(d, normal.scale, normal.shift), gamma[j], beta[j])
                      : d * normal.scale * gamma[j];
    }
    part.store_vector(p.y + first, i, y);
  }
}

template <class Team, bool centered>
__global__ void __launch_bounds__(Team::block) forward_rows(const Common common) {
  __shared__ float slots[3 * Team::slots];
  const Forward& p = common.p;
  const std::int64_t row = team_row<Team>();
  const bool is_row = row < p.shape.rows;
  const int rank = static_cast<int>(threadIdx.x) % Team::threads;
  const RowPart<Team> part = {rank, is_row ? static_cast<int>(p.shape.size) : 0, common.aligned};
  const std::int64_t first = row * p.shape.size;
  float v[Team::held];
  load_sum(p, part, first, v);
  float sums[2];
  const float center = center_row<Team, centered>(part, v, sums, slots);
  const float share = 1.0f / static_cast<float>(p.shape.size);
  const float offset = sums[0] * share;
  const float variance = sums[1] * share - offset * offset;
  // Rounding may leave a tiny negative variance where all elements are equal.
  const float scale = 1.0f / sqrtf((variance < 0.0f ? 0.0f : variance) + common.epsilon);
  const Normal normal = {center, scale, -offset * scale};
  if (rank == 0 && is_row) save<centered>(p.saved, row, normal);
  put_result<Team, centered>(p, part, first, 0, normal, v);
}

using Piece = RowTeam<512, 8>;

// Of a piece, as of a row: sums of the distances from a center near its mean, and of their squares.
struct PieceSums {
  float center;
  float offset;
  float squares;
};

using Place = PiecePlace<Piece>;

__device__ inline std::int64_t piece_size(const Rows& shape, std::int64_t i) {
  return smaller<std::int64_t>(shape.size - i * Piece::capacity, Piece::capacity);
}

template <bool centered>
__global__ void __launch_bounds__(Piece::block)
    measure_pieces(const Common common, std::int64_t pieces, PieceSums* sums) {
  __shared__ float slots[3 * Piece::slots];
  const Place place(common.p.shape, pieces, common.aligned);
  float v[Piece::held];
  load_sum(common.p, place.part, place.first, v);
  float own[2];
  const float center = center_row<Piece, centered>(place.part, v, own, slots);
  if (threadIdx.x == 0) sums[blockIdx.x] = {center, own[0], own[1]};
}

// The statistics of a row from its pieces, in double.
template <bool centered>
__device__ Normal combine(const Common& common, const PieceSums* sums, std::int64_t pieces,
                          double* slots) {
  const Rows& shape = common.p.shape;
  const double size = static_cast<double>(shape.size);
  double total[1] = {0.0};
  if constexpr (centered) {
    for (std::int64_t i = threadIdx.x; i < pieces; i += Piece::threads) {
      total[0] += static_cast<double>(piece_size(shape, i)) * static_cast<double>(sums[i].center) +
                  static_cast<double>(sums[i].offset);
    }
    reduce_team<Sum, Piece::threads>(total, slots);
  }
  const double mean = total[0] / size;
  double squares[1] = {0.0};
  for (std::int64_t i = threadIdx.x; i < pieces; i += Piece::threads) {
    // sum (s - mean)^2 = sum ((s - center) + (center - mean))^2
    const double n = static_cast<double>(piece_size(shape, i));
    const double shift = static_cast<double>(sums[i].center) - mean;
    squares[0] += static_cast<double>(sums[i].squares) +
                  shift * (2.0 * static_cast<double>(sums[i].offset) + n * shift);
  }
  reduce_team<Sum, Piece::threads>(squares, slots + Piece::slots);
  const double variance = squares[0] < 0.0 ? 0.0 : squares[0] / size;
  const double scale = 1.0 / sqrt(variance + static_cast<double>(common.epsilon));
  const float center = static_cast<float>(mean);
  return {center, static_cast<float>(scale),
          static_cast<float>((static_cast<double>(center) - mean) * scale)};
}

template <bool centered>
__global__ void __launch_bounds__(Piece::block)
    normalize_pieces(const Common common, std::int64_t pieces, const PieceSums* sums) {
  __shared__ double slots[2 * Piece::slots];
  const Forward& p = common.p;
  const Place place(p.shape, pieces, common.aligned);
  const Normal normal = combine<centered>(common, sums + place.row * pieces, pieces, slots);
  if (threadIdx.x == 0 && place.column == 0) save<centered>(p.saved, place.row, normal);
  float v[Piece::held];
  place.part.load((p.residual == nullptr ? p.x : p.s) + place.first, 0.0f, v);
  if constexpr (centered) {
#pragma unroll
    for (int k = 0; k < Piece::held; ++k) v[k] -= normal.center;
  }
  put_result<Piece, centered>(p, place.part, place.first, place.column, normal, v);
}

template <bool centered>
void forward_of(const Forward& p) {
  constexpr double smallest_normal = 0x1p-126;
  const Rows& shape = p.shape;
  if (shape.rows == 0) return;
  // A smaller epsilon would be 0 as a float, and the deviation of equal elements with it.
  const double epsilon = p.epsilon < smallest_normal ? smallest_normal : p.epsilon;
  const Common common = {
      p, static_cast<float>(epsilon),
      shape.size % 4 == 0 && aligned_for_vectors(p.x, p.residual, p.gamma, p.beta, p.y, p.s)};
  const bool held = with_row_team(shape.size, [&](auto team) {
    using Team = decltype(team);
    const std::int64_t blocks = ceil_div<std::int64_t>(shape.rows, Team::rows);
    launch(shape.op, {dim3(static_cast<unsigned>(blocks)), dim3(Team::block)},
           forward_rows<Team, centered>, common);
  });
  if (held) return;
  const std::int64_t pieces = ceil_div<std::int64_t>(shape.size, Piece::capacity);
  const Scratch<PieceSums> sums(shape.op, shape.rows * pieces);
  const Launch shape_of = {dim3(static_cast<unsigned>(shape.rows * pieces)), dim3(Piece::block)};
  launch(shape.op, shape_of, measure_pieces<centered>, common, pieces, sums.get());
  launch(shape.op, shape_of, normalize_pieces<centered>, common, pieces, sums.get());
}

void forward(bool centered, const Forward& p) {
  centered ? forward_of<true>(p) : forward_of<false>(p);
}

}  // namespace

extern const Kernels kernels = {forward, backward};

}  // namespace lamella::layer_norm::device
