// Embedding on the device: forward copies rows. Backward orders the indices by row, and sums each
// row's gradients in that order: first within pieces of the order, then the sums of rows that reach
// beyond a piece. What limits both is memory; backward also zeroes the table's gradient.
#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"
#include "cuda/pointwise.cuh"
#include "cuda/row_team.cuh"
#include "ops/embedding/embedding.h"
#include "ops/embedding/embedding_cuda_order.cuh"

namespace lamella::embedding::device {
namespace {

constexpr int threads = 256;
// Elements that are on their way at a time.
constexpr int ahead = 4;

// Threads across the columns, `width` each, and lines of work one below the other.
struct Tile {
  std::int64_t columns;
  std::int64_t groups;  // of columns
  int across;
  int down;
};

Tile tile_of(std::int64_t columns, int width) {
  const std::int64_t units = columns / width;
  const std::int64_t groups = ceil_div<std::int64_t>(units, threads);
  const int across = static_cast<int>(ceil_div(units, groups));
  return {columns, groups, across, threads / across};
}

Launch tile_launch(const Tile& tile, std::int64_t lines) {
  const std::int64_t blocks = ceil_div<std::int64_t>(lines, tile.down) * tile.groups;
  return {dim3(static_cast<unsigned>(blocks)), dim3(threads)};
}

struct Place {
  std::int64_t line;
  std::int64_t column;
  bool is_inside;

  __device__ Place(const Tile& tile, std::int64_t lines, int width) {
    const int share = static_cast<int>(threadIdx.x) / tile.across;
    line = blockIdx.x / tile.groups * tile.down + share;
    const std::int64_t group = blockIdx.x % tile.groups;
    column = (group * tile.across + static_cast<int>(threadIdx.x) % tile.across) * width;
    is_inside = share < tile.down && line < lines && column < tile.columns;
  }
};

// A line is `ahead` rows.
template <int width>
__global__ void __launch_bounds__(threads)
    copy_rows(const Tile tile, std::int64_t count, std::int64_t lines, const std::int64_t* indices,
              const float* table, float* y) {
  const Place place(tile, lines, width);
  if (!place.is_inside) return;
  const std::int64_t first = place.line * ahead;
  Elements<width> e[ahead];
#pragma unroll
  for (int k = 0; k < ahead; ++k) {
    if (first + k >= count) continue;
    e[k] = load_elements<width>(table, indices[first + k] * tile.columns + place.column);
  }
#pragma unroll
  for (int k = 0; k < ahead; ++k) {
    if (first + k >= count) continue;
    store_elements<width>(y, (first + k) * tile.columns + place.column, e[k]);
  }
}

template <int width>
void forward_of(const Problem& p, const std::int64_t* indices, const float* table, float* y) {
  const Tile tile = tile_of(p.columns, width);
  const std::int64_t lines = ceil_div<std::int64_t>(p.count, ahead);
  launch(op, tile_launch(tile, lines), copy_rows<width>, tile, p.count, lines, indices, table, y);
}

void forward(const Problem& p, const std::int64_t* indices, const float* table, float* y) {
  p.columns % 4 == 0 && aligned_for_vectors(table, y) ? forward_of<4>(p, indices, table, y)
                                                      : forward_of<1>(p, indices, table, y);
}

// The order of the positions, cut into pieces. A row whose positions lie in several pieces has a
// part of its sum in each: `head` of the piece it enters, `tail` of the piece in which it begins.
template <class Number>
struct Pieces {
  const Number* rows;
  const Number* positions;
  std::int64_t count;
  std::int64_t size;  // of a piece
  std::int64_t pieces;
  const float* dy;
  float* dtable;
  float* head;  // (pieces, columns)
  float* tail;  // (pieces, columns)
};

template <int width>
__device__ void add_to(Elements<width>& sum, const Elements<width>& e) {
#pragma unroll
  for (int w = 0; w < width; ++w) sum.v[w] += e.v[w];
}

template <int width, class Number>
__global__ void __launch_bounds__(threads) sum_pieces(const Tile tile, const Pieces<Number> p) {
  const Place place(tile, p.pieces, width);
  if (!place.is_inside) return;
  const std::int64_t begin = place.line * p.size;
  const std::int64_t end = smaller(p.count, begin + p.size);
  const std::int64_t part = place.line * tile.columns + place.column;
  Number row = p.rows[begin];
  bool enters = begin > 0 && p.rows[begin - 1] == row;
  Elements<width> sum = {};
  const auto put = [&](float* out, std::int64_t at) { store_elements<width>(out, at, sum); };
  const auto put_row = [&] {
    put(p.dtable, static_cast<std::int64_t>(row) * tile.columns + place.column);
  };
  for (std::int64_t first = begin; first < end; first += ahead) {
    Number rows[ahead];
    Elements<width> e[ahead];
#pragma unroll
    for (int k = 0; k < ahead; ++k) {
      if (first + k >= end) continue;
      rows[k] = p.rows[first + k];
      const std::int64_t position = static_cast<std::int64_t>(p.positions[first + k]);
      e[k] = load_elements<width>(p.dy, position * tile.columns + place.column);
    }
#pragma unroll
    for (int k = 0; k < ahead; ++k) {
      if (first + k >= end) continue;
      if (rows[k] != row) {
        enters ? put(p.head, part) : put_row();
        enters = false;
        row = rows[k];
        sum = {};
      }
      add_to<width>(sum, e[k]);
    }
  }
  if (enters) return put(p.head, part);
  const bool leaves = end < p.count && p.rows[end] == row;
  leaves ? put(p.tail, part) : put_row();
}

// The rows that begin in a piece and leave it.
template <int width, class Number>
__global__ void __launch_bounds__(threads) join_pieces(const Tile tile, const Pieces<Number> p) {
  const Place place(tile, p.pieces, width);
  if (!place.is_inside) return;
  const std::int64_t begin = place.line * p.size;
  const std::int64_t end = begin + p.size;
  if (end >= p.count) return;
  const Number row = p.rows[end];
  const bool leaves = p.rows[end - 1] == row;
  const bool enters = begin > 0 && p.rows[begin - 1] == row;
  if (!leaves || enters) return;
  // The row ends before `last`.
  std::int64_t inside = end, last = p.count;
  while (last - inside > 1) {
    const std::int64_t middle = inside + (last - inside) / 2;
    p.rows[middle] == row ? inside = middle : last = middle;
  }
  const std::int64_t last_piece = inside / p.size;
  Elements<width> sum = load_elements<width>(p.tail, place.line * tile.columns + place.column);
#pragma unroll 8
  for (std::int64_t piece = place.line + 1; piece <= last_piece; ++piece) {
    add_to<width>(sum, load_elements<width>(p.head, piece * tile.columns + place.column));
  }
  store_elements<width>(p.dtable, static_cast<std::int64_t>(row) * tile.columns + place.column,
                        sum);
}

// Long enough that the pieces' own sums are little beside dy, short enough that there are many
// pieces, and not too many for one thread to join if one row has them all.
std::int64_t piece_size(std::int64_t count) {
  std::int64_t size = 16;
  while (size < 256 && 16 * size * size < count) size *= 2;
  return size;
}

template <int width, class Number>
void sum_rows(const Problem& p, const OrderedRows<Number>& order, const float* dy, float* dtable) {
  const Tile tile = tile_of(p.columns, width);
  const std::int64_t size = piece_size(p.count);
  const std::int64_t pieces = ceil_div(p.count, size);
  const Scratch<float> parts(op, 2 * pieces * p.columns);
  const Pieces<Number> all = {order.rows(),
                              order.positions(),
                              p.count,
                              size,
                              pieces,
                              dy,
                              dtable,
                              parts.get(),
                              parts.get() + pieces * p.columns};
  launch(op, tile_launch(tile, pieces), sum_pieces<width, Number>, tile, all);
  if (pieces > 1) {
    launch(op, tile_launch(tile, pieces), join_pieces<width, Number>, tile, all);
  }
}

template <class Number>
void backward_of(const Problem& p, const std::int64_t* indices, const float* dy, float* dtable) {
  const OrderedRows<Number> order(indices, p.count, p.rows);
  p.columns % 4 == 0 && aligned_for_vectors(dy, dtable) ? sum_rows<4>(p, order, dy, dtable)
                                                        : sum_rows<1>(p, order, dy, dtable);
}

void backward(const Problem& p, const std::int64_t* indices, const float* dy, float* dtable) {
  fill_bytes(dtable, 0, static_cast<std::size_t>(p.rows * p.columns) * sizeof(float));
  if (p.count == 0) return;
  constexpr std::int64_t half = std::int64_t{1} << 31;
  p.rows <= half&& p.count <= half ? backward_of<std::uint32_t>(p, indices, dy, dtable)
                                   : backward_of<std::uint64_t>(p, indices, dy, dtable);
}

}  // namespace

extern const Kernels kernels = {forward, backward};

}  // namespace lamella::embedding::device
