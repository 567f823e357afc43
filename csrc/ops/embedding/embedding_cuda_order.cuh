// The positions 0 .. count - 1 ordered by their rows, positions of one row in their own order: a
// stable radix sort, eight bits of the row a pass, in a fixed order of operations.
//
// A pass counts each tile's digits, adds the counts up over the tiles before, and moves each
// position to its place. It reads and writes 8 to 16 bytes a position; the gradients that are
// summed afterwards are far more.
#pragma once

#include <type_traits>
#include <utility>

#include "cuda/kernel.cuh"
#include "cuda/launch.cuh"

namespace lamella::embedding::device {

using namespace lamella::device;

constexpr const char* op = "embedding";

constexpr int digit_bits = 8;
constexpr int digits = 1 << digit_bits;
constexpr int order_threads = digits;
constexpr int order_warps = order_threads / warp_size;
// Consecutive numbers, 32 at a time, that are a warp's share of a tile.
constexpr int rounds = 8;
constexpr int tile_size = order_threads * rounds;

// Rows and positions: `Number` holds both.
template <class Number>
struct Order {
  const std::int64_t* indices;  // of the first pass, whose positions are 0, 1, 2, ...
  const Number* rows;           // of the others
  const Number* positions;
  Number* rows_out;
  Number* positions_out;
  Number* counts;  // (digits, tiles)
  Number* totals;  // (digits)
  std::int64_t count;
  std::int64_t tiles;
  int shift;

  __device__ Number row(std::int64_t i) const {
    return indices != nullptr ? static_cast<Number>(indices[i]) : rows[i];
  }
  __device__ Number position(std::int64_t i) const {
    return indices != nullptr ? static_cast<Number>(i) : positions[i];
  }
  __device__ int digit(Number row) const {
    return static_cast<int>((row >> shift) & static_cast<Number>(digits - 1));
  }
};

template <class Number>
__global__ void __launch_bounds__(order_threads) count_digits(const Order<Number> order) {
  __shared__ unsigned counts[digits];
  const int thread = static_cast<int>(threadIdx.x);
  counts[thread] = 0;
  __syncthreads();
  const std::int64_t first = std::int64_t{blockIdx.x} * tile_size;
#pragma unroll
  for (int k = 0; k < rounds; ++k) {
    const std::int64_t i = first + k * order_threads + thread;
    if (i < order.count) atomicAdd(&counts[order.digit(order.row(i))], 1u);
  }
  __syncthreads();
  order.counts[thread * order.tiles + blockIdx.x] = counts[thread];
}

// value of all threads before this one; `total` of all. shared: order_threads values.
template <class Number>
__device__ Number sum_before(Number value, Number* shared, Number& total) {
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();
  shared[thread] = value;
  for (int distance = 1; distance < order_threads; distance *= 2) {
    __syncthreads();
    const Number other = thread >= distance ? shared[thread - distance] : Number{0};
    __syncthreads();
    shared[thread] += other;
  }
  __syncthreads();
  total = shared[order_threads - 1];
  return shared[thread] - value;
}

// A block a digit: its counts replaced by those of the tiles before.
template <class Number>
__global__ void __launch_bounds__(order_threads) add_tiles(const Order<Number> order) {
  __shared__ Number shared[order_threads];
  Number* const counts = order.counts + std::int64_t{blockIdx.x} * order.tiles;
  Number before = 0;
  for (std::int64_t first = 0; first < order.tiles; first += order_threads) {
    const std::int64_t i = first + threadIdx.x;
    const Number own = i < order.tiles ? counts[i] : Number{0};
    Number total;
    const Number sum = sum_before(own, shared, total);
    if (i < order.tiles) counts[i] = before + sum;
    before += total;
  }
  if (threadIdx.x == 0) order.totals[blockIdx.x] = before;
}

// The lanes of the warp whose digit is the same; none of those that are not `active`.
__device__ inline unsigned lanes_with(int digit, bool active) {
  unsigned same = __ballot_sync(all_lanes, active);
#pragma unroll
  for (int bit = 0; bit < digit_bits; ++bit) {
    const bool is_set = (digit >> bit & 1) != 0;
    const unsigned with_bit = __ballot_sync(all_lanes, is_set);
    same &= is_set ? with_bit : ~with_bit;
  }
  return same;
}

template <class Number>
__global__ void __launch_bounds__(order_threads) move_numbers(const Order<Number> order) {
  __shared__ Number scan[order_threads];
  __shared__ unsigned counts[order_warps][digits];
  __shared__ Number places[digits];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = lane_index();
  const int warp = warp_index();
  for (int w = 0; w < order_warps; ++w) counts[w][thread] = 0;
  Number all;
  const Number before_digit = sum_before(order.totals[thread], scan, all);
  places[thread] = before_digit + order.counts[thread * order.tiles + blockIdx.x];

  const std::int64_t first = std::int64_t{blockIdx.x} * tile_size + warp * (rounds * warp_size);
  Number rows[rounds];
  unsigned ranks[rounds];
#pragma unroll
  for (int k = 0; k < rounds; ++k) {
    const std::int64_t i = first + k * warp_size + lane;
    rows[k] = i < order.count ? order.row(i) : Number{0};
  }
#pragma unroll
  for (int k = 0; k < rounds; ++k) {
    const bool active = first + k * warp_size + lane < order.count;
    const int digit = order.digit(rows[k]);
    const unsigned same = lanes_with(digit, active);
    const int before = __popc(same & ((1u << lane) - 1));
    unsigned* const count = &counts[warp][digit];
    ranks[k] = active ? *count + static_cast<unsigned>(before) : 0;
    __syncwarp();
    if (active && before == 0) *count += static_cast<unsigned>(__popc(same));
    __syncwarp();
  }
  __syncthreads();
  unsigned sum = 0;
  for (int w = 0; w < order_warps; ++w) {
    const unsigned own = counts[w][thread];
    counts[w][thread] = sum;
    sum += own;
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < rounds; ++k) {
    const std::int64_t i = first + k * warp_size + lane;
    if (i >= order.count) continue;
    const int digit = order.digit(rows[k]);
    const Number place = places[digit] + counts[warp][digit] + ranks[k];
    order.rows_out[place] = rows[k];
    order.positions_out[place] = order.position(i);
  }
}

// Positions in the order of their rows.
template <class Number>
class OrderedRows {
 public:
  OrderedRows(const std::int64_t* indices, std::int64_t count, std::int64_t row_count)
      : count_(count),
        tiles_(ceil_div<std::int64_t>(count, tile_size)),
        memory_(op, 4 * count),
        counts_(op, digits * (tiles_ + 1)) {
    Number* const memory = memory_.get();
    Number* in[2] = {memory, memory + count};
    Number* out[2] = {memory + 2 * count, memory + 3 * count};
    Order<Number> order = {};
    order.indices = indices;
    order.counts = counts_.get();
    order.totals = counts_.get() + digits * tiles_;
    order.count = count;
    order.tiles = tiles_;
    // A table of one row too: the rows and positions are written.
    do {
      order.rows = in[0];
      order.positions = in[1];
      order.rows_out = out[0];
      order.positions_out = out[1];
      const dim3 tiles(static_cast<unsigned>(tiles_));
      launch(op, {tiles, dim3(order_threads)}, count_digits<Number>, order);
      launch(op, {dim3(digits), dim3(order_threads)}, add_tiles<Number>, order);
      launch(op, {tiles, dim3(order_threads)}, move_numbers<Number>, order);
      order.indices = nullptr;
      order.shift += digit_bits;
      std::swap(in, out);
    } while (order.shift < 64 && ((row_count - 1) >> order.shift) != 0);
    rows_ = in[0];
    positions_ = in[1];
  }

  const Number* rows() const { return rows_; }
  const Number* positions() const { return positions_; }

 private:
  std::int64_t count_;
  std::int64_t tiles_;
  Scratch<Number> memory_;
  Scratch<Number> counts_;
  const Number* rows_;
  const Number* positions_;
};

}  // namespace lamella::embedding::device
