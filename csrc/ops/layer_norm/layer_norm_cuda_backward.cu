// layer_norm and rms_norm on the device, backward. What limits them is memory. Rows of up to 8192
// elements: a team of threads walks some rows, which lie in its registers between one read and one
// write, while the next row is on its way. Each thread has the same columns of all of these rows,
// and so keeps their sums of dgamma and dbeta, which the block adds up in the end. Longer rows are
// read in pieces, twice, and a third time for dgamma and dbeta.
#include "cuda/column_totals.cuh"
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "ops/layer_norm/layer_norm_cuda.cuh"

namespace lamella::layer_norm::device {
namespace {

// How rows become the work of blocks.
struct Walk {
  Backward p;
  bool aligned;
  std::int64_t each;  // rows of a block
  // (blocks, size) each; null where not wanted.
  float* dgamma;
  float* dbeta;

  __host__ __device__ bool wants_input() const { return p.dx != nullptr || p.dresidual != nullptr; }
};

// n = (s - center) scale + shift; without a center n = s scale.
struct Normal {
  float center;
  float scale;
  float shift;
};

template <bool centered>
__device__ Normal row_normal(const Statistics& saved, std::int64_t row, bool is_row) {
  if (!is_row) return {0.0f, 0.0f, 0.0f};
  if constexpr (!centered) return {0.0f, saved.scale[row], 0.0f};
  return {saved.center[row], saved.scale[row], saved.shift[row]};
}

// dx = g scale - (s - center) slope - shift, from the means of g and g n.
struct RowGradient {
  float scale;
  float slope;
  float shift;
};

__device__ inline RowGradient row_gradient(const Normal& normal, float mean, float mean_normal) {
  return {normal.scale, normal.scale * normal.scale * mean_normal,
          normal.scale * (mean + normal.shift * mean_normal)};
}

template <bool centered>
__device__ float normal_of(const Normal& normal, float d) {
  return centered ? fmaf(d, normal.scale, normal.shift) : d * normal.scale;
}

template <bool centered>
__device__ float gradient_of(const RowGradient& row, float g, float d) {
  return centered ? fmaf(g, row.scale, fmaf(-d, row.slope, -row.shift))
                  : fmaf(-d, row.slope, g * row.scale);
}

// dx and dresidual of vector i. `first`: of the array.
template <class Team>
__device__ void put_gradient(const Backward& p, const RowPart<Team>& part, std::int64_t first,
                             int i, float (&dx)[4]) {
  if (p.ds != nullptr) {
    float ds[4];
    part.load_vector(p.ds + first, i, 0.0f, ds);
#pragma unroll
    for (int j = 0; j < 4; ++j) dx[j] += ds[j];
  }
  if (p.dx != nullptr) part.store_vector(p.dx + first, i, dx);
  if (p.dresidual != nullptr) part.store_vector(p.dresidual + first, i, dx);
}

// The sums of the block's teams, added in order. own: of this thread's columns of its team.
template <class Team>
__device__ void put_block_sums(const RowPart<Team>& part, std::int64_t size,
                               const float (&own)[Team::held], float* out) {
  if constexpr (Team::rows == 1) {
    part.store(out, own);
  } else {
    float* const shared = dynamic_shared<float>();
    const int team = static_cast<int>(threadIdx.x) / Team::threads;
    __syncthreads();
    part.each([&](int k, int c) { shared[team * Team::capacity + c] = own[k]; });
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < size; c += Team::block) {
      float sum = shared[c];
#pragma unroll 4
      for (int t = 1; t < Team::rows; ++t) sum += shared[t * Team::capacity + c];
      out[c] = sum;
    }
  }
}

template <class Team, bool centered>
__global__ void __launch_bounds__(Team::block) backward_rows(const Walk walk) {
  __shared__ float slots[2][2 * Team::slots];
  const Backward& p = walk.p;
  const std::int64_t size = p.shape.size;
  const int rank = static_cast<int>(threadIdx.x) % Team::threads;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * walk.each;
  const std::int64_t end = smaller(p.shape.rows, begin + walk.each);
  const RowPart<Team> columns = {rank, static_cast<int>(size), walk.aligned};
  const float share = 1.0f / static_cast<float>(size);
  // Where registers are short, memory waits for a row to be finished.
  constexpr bool reads_ahead = Team::vectors == 1;
  float dgamma[Team::held] = {}, dbeta[Team::held] = {};

  std::int64_t row = begin + static_cast<int>(threadIdx.x) / Team::threads;
  float next_dy[Team::held], next_s[Team::held];
  const auto load = [&](std::int64_t of) {
    const RowPart<Team> part = {rank, of < end ? columns.size : 0, walk.aligned};
    part.load(p.dy + of * size, 0.0f, next_dy);
    part.load(p.s + of * size, 0.0f, next_s);
  };
  if constexpr (reads_ahead) load(row);
  int turn = 0;
  // All teams of a block take the same number of turns: they meet in each reduction.
  for (std::int64_t first = begin; first < end; first += Team::rows, row += Team::rows) {
    const RowPart<Team> part = {rank, row < end ? columns.size : 0, walk.aligned};
    const Normal normal = row_normal<centered>(p.saved, row, row < end);
    if constexpr (!reads_ahead) load(row);
    float g[Team::held], d[Team::held];
    float sums[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < Team::vectors; ++i) {
      float gamma[4] = {1.0f, 1.0f, 1.0f, 1.0f};
      if (p.gamma != nullptr) columns.load_vector(p.gamma, i, 0.0f, gamma);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int k = 4 * i + j;
        d[k] = centered ? next_s[k] - normal.center : next_s[k];
        const float n = normal_of<centered>(normal, d[k]);
        dgamma[k] = fmaf(next_dy[k], n, dgamma[k]);
        if constexpr (centered) dbeta[k] += next_dy[k];
        g[k] = next_dy[k] * gamma[j];
        sums[0] += g[k];
        sums[1] = fmaf(g[k], n, sums[1]);
      }
    }
    if constexpr (reads_ahead) load(row + Team::rows);
    if (!walk.wants_input()) continue;
    reduce_team<Sum, Team::threads>(sums, slots[turn]);
    turn = 1 - turn;
    const RowGradient gradient = row_gradient(normal, sums[0] * share, sums[1] * share);
#pragma unroll
    for (int i = 0; i < Team::vectors; ++i) {
      float dx[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        dx[j] = gradient_of<centered>(gradient, g[4 * i + j], d[4 * i + j]);
      }
      put_gradient(p, part, row * size, i, dx);
    }
  }
  if (walk.dgamma != nullptr) {
    put_block_sums(columns, size, dgamma, walk.dgamma + blockIdx.x * size);
  }
  if (walk.dbeta != nullptr) {
    put_block_sums(columns, size, dbeta, walk.dbeta + blockIdx.x * size);
  }
}

// Pieces of long rows.
using Piece = RowTeam<512, 4>;

struct PieceSums {
  float plain;   // of g
  float normal;  // of g n
};

using Place = PiecePlace<Piece>;

// g and s - center of vector i of a piece, 0 behind the row's end.
template <bool centered>
__device__ void load_pair(const Backward& p, const Place& place, int i, const Normal& normal,
                          float (&g)[4], float (&d)[4]) {
  float gamma[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  if (p.gamma != nullptr) place.part.load_vector(p.gamma + place.column, i, 0.0f, gamma);
  place.part.load_vector(p.dy + place.first, i, 0.0f, g);
  place.part.load_vector(p.s + place.first, i, normal.center, d);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    g[j] *= gamma[j];
    if constexpr (centered) d[j] -= normal.center;
  }
}

template <bool centered>
__global__ void __launch_bounds__(Piece::block)
    measure_pieces(const Walk walk, std::int64_t pieces, PieceSums* sums) {
  __shared__ float slots[2 * Piece::slots];
  const Backward& p = walk.p;
  const Place place(p.shape, pieces, walk.aligned);
  const Normal normal = row_normal<centered>(p.saved, place.row, true);
  float own[2] = {0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < Piece::vectors; ++i) {
    float g[4], d[4];
    load_pair<centered>(p, place, i, normal, g, d);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      own[0] += g[j];
      own[1] = fmaf(g[j], normal_of<centered>(normal, d[j]), own[1]);
    }
  }
  reduce_team<Sum, Piece::threads>(own, slots);
  if (threadIdx.x == 0) sums[blockIdx.x] = {own[0], own[1]};
}

template <bool centered>
__global__ void __launch_bounds__(Piece::block)
    put_pieces(const Walk walk, std::int64_t pieces, const PieceSums* sums) {
  __shared__ double slots[2 * Piece::slots];
  const Backward& p = walk.p;
  const Place place(p.shape, pieces, walk.aligned);
  const Normal normal = row_normal<centered>(p.saved, place.row, true);
  double total[2] = {0.0, 0.0};
  for (std::int64_t i = threadIdx.x; i < pieces; i += Piece::threads) {
    total[0] += static_cast<double>(sums[place.row * pieces + i].plain);
    total[1] += static_cast<double>(sums[place.row * pieces + i].normal);
  }
  reduce_team<Sum, Piece::threads>(total, slots);
  const double size = static_cast<double>(p.shape.size);
  const RowGradient gradient = row_gradient(normal, static_cast<float>(total[0] / size),
                                            static_cast<float>(total[1] / size));
#pragma unroll
  for (int i = 0; i < Piece::vectors; ++i) {
    float g[4], d[4], dx[4];
    load_pair<centered>(p, place, i, normal, g, d);
#pragma unroll
    for (int j = 0; j < 4; ++j) dx[j] = gradient_of<centered>(gradient, g[j], d[j]);
    put_gradient(p, place.part, place.first, i, dx);
  }
}

// dgamma and dbeta of the rows of a block, a thread four columns.
constexpr int column_threads = 128;
using Columns = RowTeam<column_threads, 1>;

template <bool centered>
__global__ void __launch_bounds__(column_threads) add_rows(const Walk walk, std::int64_t across) {
  const Backward& p = walk.p;
  const std::int64_t size = p.shape.size;
  const std::int64_t share = blockIdx.x / across;
  const std::int64_t column = blockIdx.x % across * Columns::capacity;
  const std::int64_t end = smaller(p.shape.rows, (share + 1) * walk.each);
  const RowPart<Columns> part = {
      static_cast<int>(threadIdx.x),
      static_cast<int>(smaller<std::int64_t>(size - column, Columns::capacity)), walk.aligned};
  float dgamma[4] = {}, dbeta[4] = {};
#pragma unroll 4
  for (std::int64_t row = share * walk.each; row < end; ++row) {
    float dy[4], s[4];
    part.load_vector(p.dy + row * size + column, 0, 0.0f, dy);
    part.load_vector(p.s + row * size + column, 0, 0.0f, s);
    const Normal normal = row_normal<centered>(p.saved, row, true);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float n = normal_of<centered>(normal, centered ? s[j] - normal.center : s[j]);
      dgamma[j] = fmaf(dy[j], n, dgamma[j]);
      dbeta[j] += dy[j];
    }
  }
  const std::int64_t first = share * size + column;
  if (walk.dgamma != nullptr) part.store_vector(walk.dgamma + first, 0, dgamma);
  if (walk.dbeta != nullptr) part.store_vector(walk.dbeta + first, 0, dbeta);
}

// choice(RowTeam<...>{}) of a team that holds a row of `size` beside its sums; false where none
// does.
template <class Choice>
bool with_team(std::int64_t size, const Choice& choice) {
  if (size <= 32) return choice(RowTeam<8, 1, 256>{}), true;
  if (size <= 128) return choice(RowTeam<32, 1, 256>{}), true;
  if (size <= 512) return choice(RowTeam<128, 1, 512>{}), true;
  if (size <= 1024) return choice(RowTeam<256, 1, 512>{}), true;
  if (size <= 2048) return choice(RowTeam<512, 1, 512>{}), true;
  if (size <= 4096) return choice(RowTeam<1024, 1, 1024>{}), true;
  if (size <= 8192) return choice(RowTeam<512, 4, 512>{}), true;
  return false;
}

// Scratch memory for the blocks' sums of dgamma and dbeta, and their totals.
class ParameterSums {
 public:
  ParameterSums(const Backward& p, std::int64_t blocks)
      : p_(p),
        blocks_(blocks),
        dgamma_(p.shape.op, p.dgamma == nullptr ? 0 : blocks * p.shape.size),
        dbeta_(p.shape.op, p.dbeta == nullptr ? 0 : blocks * p.shape.size) {}

  float* dgamma() const { return dgamma_.get(); }
  float* dbeta() const { return dbeta_.get(); }

  void add_up() const {
    if (p_.dgamma == nullptr && p_.dbeta == nullptr) return;
    launch_column_totals(
        p_.shape.op,
        {blocks_, p_.shape.size, {{dgamma_.get(), p_.dgamma}, {dbeta_.get(), p_.dbeta}}});
  }

 private:
  const Backward& p_;
  std::int64_t blocks_;
  Scratch<float> dgamma_;
  Scratch<float> dbeta_;
};

template <class Team, bool centered>
void backward_held(const Backward& p, bool aligned) {
  // Blocks enough to fill the device, of rows enough that their sums are little beside them.
  const std::int64_t most = std::int64_t{properties().multiprocessors} * (1024 / Team::block);
  const std::int64_t turns = larger<std::int64_t>(8, ceil_div(p.shape.rows, most * Team::rows));
  const std::int64_t each = turns * Team::rows;
  const std::int64_t blocks = ceil_div(p.shape.rows, each);
  const ParameterSums sums(p, blocks);
  const std::size_t shared = Team::rows == 1 ? 0 : Team::rows * Team::capacity * sizeof(float);
  launch(p.shape.op, {dim3(static_cast<unsigned>(blocks)), dim3(Team::block), shared},
         backward_rows<Team, centered>, Walk{p, aligned, each, sums.dgamma(), sums.dbeta()});
  sums.add_up();
}

template <bool centered>
void backward_long(const Backward& p, bool aligned) {
  Walk walk = {p, aligned, p.shape.rows, nullptr, nullptr};
  if (walk.wants_input()) {
    const std::int64_t pieces = ceil_div<std::int64_t>(p.shape.size, Piece::capacity);
    const Scratch<PieceSums> sums(p.shape.op, p.shape.rows * pieces);
    const Launch shape = {dim3(static_cast<unsigned>(p.shape.rows * pieces)), dim3(Piece::block)};
    launch(p.shape.op, shape, measure_pieces<centered>, walk, pieces, sums.get());
    launch(p.shape.op, shape, put_pieces<centered>, walk, pieces, sums.get());
  }
  if (p.dgamma == nullptr && p.dbeta == nullptr) return;
  const std::int64_t across = ceil_div<std::int64_t>(p.shape.size, Columns::capacity);
  const std::int64_t wanted =
      ceil_div<std::int64_t>(std::int64_t{properties().multiprocessors} * 8, across);
  walk.each = larger<std::int64_t>(32, ceil_div(p.shape.rows, wanted));
  const std::int64_t shares = ceil_div(p.shape.rows, walk.each);
  const ParameterSums sums(p, shares);
  walk.dgamma = sums.dgamma();
  walk.dbeta = sums.dbeta();
  launch(p.shape.op, {dim3(static_cast<unsigned>(shares * across)), dim3(column_threads)},
         add_rows<centered>, walk, across);
  sums.add_up();
}

template <bool centered>
void backward_of(const Backward& p) {
  if (p.shape.rows == 0) {
    const auto bytes = static_cast<std::size_t>(p.shape.size) * sizeof(float);
    for (float* out : {p.dgamma, p.dbeta}) {
      if (out != nullptr) fill_bytes(out, 0, bytes);
    }
    return;
  }
  const bool aligned =
      p.shape.size % 4 == 0 && aligned_for_vectors(p.dy, p.ds, p.s, p.gamma, p.dx, p.dresidual);
  const bool held = with_team(
      p.shape.size, [&](auto team) { backward_held<decltype(team), centered>(p, aligned); });
  if (!held) backward_long<centered>(p, aligned);
}

}  // namespace

void backward(bool centered, const Backward& p) {
  centered ? backward_of<true>(p) : backward_of<false>(p);
}

}  // namespace lamella::layer_norm::device
