// The matrix product of the device kernels: C = finish(A B), for any operands that know how to
// load a tile of themselves.
//
//   result r:  C_r (m, n) = finish(sum over its products t of A_t (m, k) B_t (k, n))
//
// A block computes a tile of C. It walks along k, and from product to product, in steps of
// Tile::depth, with the tiles of the next Tile::stages - 1 steps on their way to shared memory by
// asynchronous copies. Where C has too few tiles to fill the device the steps are split among
// several blocks; they write partial sums, which a second kernel adds in order and finishes: the
// same bits in every run.
//
// What a product is made of:
//
//   Tile      sizes and arithmetic (gemm_fma.cuh: float32; gemm_mma.cuh: tensor cores):
//               Tile::m, n, depth, stages, threads, blocks (wanted on a multiprocessor), rate (FMAs
//               a clock and multiprocessor, measured or guessed; for the plan), supported (here: by
//               the architecture)
//               Tile::A, Tile::B: where element (row, k) of an operand's tile lies in shared
//               memory:
//                   ::Element, ::rows, ::depth, ::size (elements), ::at(row, k)
//                 rows are those of A, columns of B.
//               Tile::Accumulators: multiply(a, b) adds one step's product of two tiles;
//                 visit<unrolled>(f) calls f(row, column, float (&values)[width]) for all of the
//                 thread's sums: `width` columns of one row.
//
//   Operand   A, and B, from its own point of view a matrix of `rows` (m of A, n of B) by k. A
//             kernel parameter, copied by value:
//               struct Operand {
//                 template <class Layout, int threads>  // Layout: Tile::A or Tile::B
//                 struct Loader {
//                   // For the tile whose first row is `row`; all the block's threads make one.
//                   __device__ Loader(const Operand&, std::int64_t row);
//                   // Queues copies (copy.cuh: copy_async; or stores) of this thread's share of
//                   // elements (row .. row + Layout::rows, k .. k + Layout::depth) of product
//                   // `product` to tile[Layout::at(row, k)]. Every element of the tile is written:
//                   // those beyond the operand's rows or beyond k_end with 0. k is a multiple of
//                   // Layout::depth. No commit, no wait, no barrier.
//                   __device__ void load(typename Layout::Element* tile, std::int64_t product,
//                                        std::int64_t k);
//                 };
//               };
//             Strided (gemm_operand.cuh) is a matrix in memory; the convolutions have their own.
//             Layouts for float32 hold columns: at(row, k) = k * (rows + 4) + row, and 16-byte
//             copies fit where the operand is contiguous along its rows; along k use 4-byte copies,
//             lanes 8 along k and 4 along rows, which meet no bank twice and read whole sectors.
//
//   Finish    what becomes of the sums, on their way to memory. A kernel parameter:
//               struct Finish {
//                 static constexpr bool unrolled;  // inlined for every value (short code), or
//                 looped
//                 // `count` (1 .. width) columns of row `row` of result `result` from `column` on.
//                 // Called once for each element, by one thread.
//                 template <int width>
//                 __device__ void operator()(std::int64_t result, std::int64_t row,
//                                            std::int64_t column, int count,
//                                            float (&values)[width]) const;
//               };
//             A Finish may look at elements again when the sums' registers are free, for what is
//             rare and long: its operator() returns whether that is wanted of any in this tile, and
//                 __device__ void revise(std::int64_t result, std::int64_t row,
//                                        std::int64_t column) const;
//             is called for all of them.
//             Store and Activate: gemm_finish.cuh.
//
//   gemm::product(Tiles{}, op, problem, a, b, finish) chooses the tile (gemm_plan.h) and launches.
//   Tiles: gemm::FmaTiles.
#pragma once

#include "core/memory_pool.h"
#include "cuda/copy.cuh"
#include "cuda/gemm_finish.cuh"
#include "cuda/gemm_fma.cuh"
#include "cuda/gemm_operand.cuh"
#include "cuda/gemm_plan.h"
#include "cuda/launch.cuh"

namespace lamella::device::gemm {

// Sizes and the products to be summed: those of result r are first[r] .. first[r + 1], or where
// `first` (on the device) is null r * terms .. (r + 1) * terms. `terms` is the largest number.
struct Problem {
  std::int64_t m, n, k;
  std::int64_t results = 1;
  std::int64_t terms = 1;
  const std::int64_t* first = nullptr;
};

namespace detail {

struct Work {
  Problem problem;
  int tiles_m, tiles_n;
  int steps;                 // of one product
  std::int64_t split_steps;  // of one block
  int splits;
  std::int64_t first_result;
  float* partials;           // (splits, results, m, partial_row), where there are several splits
  std::int64_t partial_row;  // n, rounded up to whole vectors
};

struct TilePlace {
  int row, column;  // in tiles
};

template <class Finish>
constexpr bool revises = requires(const Finish& f, std::int64_t i) { f.revise(i, i, i); };

template <class Finish, int width>
__device__ inline bool finish_values(const Finish& finish, std::int64_t result, std::int64_t row,
                                     std::int64_t column, int count, float (&values)[width]) {
  if constexpr (revises<Finish>) {
    return finish(result, row, column, count, values);
  } else {
    finish(result, row, column, count, values);
    return false;
  }
}

// Blocks that run at the same time lie in a rectangle of C of up to 8 tiles' height, so that they
// share what they read of A and B in the L2 cache.
__device__ inline TilePlace tile_place(int block, int tiles_m, int tiles_n) {
  constexpr int group = 8;
  const int first = block / (group * tiles_n) * group;
  const int height = smaller(group, tiles_m - first);
  const int inside = block % (group * tiles_n);
  return {first + inside % height, inside / height};
}

// blockIdx, which the compiler does not know to be the same as before: what is computed from it
// again need not be kept in registers meanwhile.
__device__ inline dim3 block_again() {
#if defined(__CUDA_ARCH__)
  dim3 block;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block.x));
  asm volatile("mov.u32 %0, %%ctaid.y;" : "=r"(block.y));
  asm volatile("mov.u32 %0, %%ctaid.z;" : "=r"(block.z));
  return block;
#else
  return {blockIdx.x, blockIdx.y, blockIdx.z};
#endif
}

// Grid: (tiles, splits, results from first_result on).
template <class Tile, class OperandA, class OperandB, class Finish>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks)
    product_kernel(const __grid_constant__ Work work, const __grid_constant__ OperandA a,
                   const __grid_constant__ OperandB b, const __grid_constant__ Finish finish) {
  if constexpr (!Tile::supported) return;
  using Element = typename Tile::Element;
  constexpr int width = Tile::Accumulators::width;
  Element* const a_tiles = dynamic_shared<Element>();
  Element* const b_tiles = a_tiles + Tile::stages * Tile::A::size;
  const TilePlace begin_place =
      tile_place(static_cast<int>(blockIdx.x), work.tiles_m, work.tiles_n);
  const Problem& problem = work.problem;

  // The next step to load: its product, and its number there. `left`: steps to compute.
  std::int64_t product;
  int step;
  int left;
  {
    const std::int64_t result = work.first_result + blockIdx.z;
    product = result * problem.terms;
    std::int64_t terms = problem.terms;
    if (problem.first != nullptr) {
      product = problem.first[result];
      terms = problem.first[result + 1] - product;
    }
    const std::int64_t all = terms * work.steps;
    const std::int64_t begin = smaller<std::int64_t>(blockIdx.y * work.split_steps, all);
    left = static_cast<int>(smaller(work.split_steps, all - begin));
    step = static_cast<int>(begin);
    if (terms > 1 && begin > 0) {
      product += begin / work.steps;
      step = static_cast<int>(begin % work.steps);
    }
  }
  typename OperandA::template Loader<typename Tile::A, Tile::threads> load_a(
      a, std::int64_t{begin_place.row} * Tile::m);
  typename OperandB::template Loader<typename Tile::B, Tile::threads> load_b(
      b, std::int64_t{begin_place.column} * Tile::n);
  // Every step has its group of copies, also where nothing is left to load.
  const auto load_next = [&](int slot, bool any) {
    if (any) {
      const std::int64_t k = std::int64_t{step} * Tile::depth;
      load_a.load(a_tiles + slot * Tile::A::size, product, k);
      load_b.load(b_tiles + slot * Tile::B::size, product, k);
      if (++step == work.steps) {
        step = 0;
        ++product;
      }
    }
    copy_commit();
  };

  constexpr int ahead = Tile::stages - 1;
  typename Tile::Accumulators sums;
#pragma unroll 1
  for (int i = 0; i < ahead; ++i) load_next(i, i < left);
  int slot = 0;
#pragma unroll 1
  for (; left > 0; --left) {
    copy_wait<ahead - 1>();
    __syncthreads();  // all copies have landed; the slot before this one has been read by all
    load_next(slot == 0 ? ahead : slot - 1, left > ahead);
    sums.multiply(a_tiles + slot * Tile::A::size, b_tiles + slot * Tile::B::size);
    slot = slot == ahead ? 0 : slot + 1;
  }
  copy_wait<0>();

  const dim3 block = block_again();
  const std::int64_t result = work.first_result + block.z;
  const TilePlace place = tile_place(static_cast<int>(block.x), work.tiles_m, work.tiles_n);
  const std::int64_t first_row = std::int64_t{place.row} * Tile::m;
  const std::int64_t first_column = std::int64_t{place.column} * Tile::n;
  if (work.splits > 1) {
    float* const partials =
        work.partials + (block.y * problem.results + result) * problem.m * work.partial_row;
    sums.template visit<true>([&](int r, int c, float (&values)[width]) {
      const std::int64_t row = first_row + r;
      const std::int64_t column = first_column + c;
      if (row < problem.m && column < problem.n) {
        write(partials + row * work.partial_row + column, values, width, true);
      }
    });
    return;
  }
  bool again = false;
  sums.template visit<Finish::unrolled>([&](int r, int c, float (&values)[width]) {
    const std::int64_t row = first_row + r;
    const std::int64_t column = first_column + c;
    if (row < problem.m && column < problem.n) {
      const int count = static_cast<int>(smaller<std::int64_t>(width, problem.n - column));
      again |= finish_values(finish, result, row, column, count, values);
    }
  });
  if constexpr (revises<Finish>) {
    if (__syncthreads_or(again) == 0) return;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < Tile::m * Tile::n; i += Tile::threads) {
      const std::int64_t row = first_row + i / Tile::n;
      const std::int64_t column = first_column + i % Tile::n;
      if (row < problem.m && column < problem.n) finish.revise(result, row, column);
    }
  }
}

// Sums the splits in order. Reads each partial sum once: bound by memory.
template <class Finish>
__global__ void __launch_bounds__(256)
    finish_kernel(const __grid_constant__ Work work, const __grid_constant__ Finish finish) {
  const Problem& problem = work.problem;
  const std::int64_t across = work.partial_row / 4;
  const std::int64_t vectors = problem.results * problem.m * across;
  for (std::int64_t i = grid_thread(); i < vectors; i += grid_threads()) {
    const float4* const partials = reinterpret_cast<const float4*>(work.partials) + i;
    float values[4] = {};
#pragma unroll 4
    for (int split = 0; split < work.splits; ++split) {
      const float4 v = partials[split * vectors];
      values[0] += v.x;
      values[1] += v.y;
      values[2] += v.z;
      values[3] += v.w;
    }
    const std::int64_t row = i / across;
    const std::int64_t column = i % across * 4;
    const int count = static_cast<int>(smaller<std::int64_t>(4, problem.n - column));
    if (!finish_values(finish, row / problem.m, row % problem.m, column, count, values)) continue;
    if constexpr (revises<Finish>) {
#pragma unroll 1
      for (int j = 0; j < count; ++j) finish.revise(row / problem.m, row % problem.m, column + j);
    }
  }
}

template <class Finish>
void finish_splits(const char* op, const Work& work, const Finish& finish) {
  const std::int64_t vectors = work.problem.results * work.problem.m * work.partial_row / 4;
  launch(op, elements(vectors, 1), finish_kernel<Finish>, work, finish);
}

template <class Tile, class OperandA, class OperandB, class Finish>
void launch_product(const char* op, Work work, const OperandA& a, const OperandB& b,
                    const Finish& finish) {
  const Problem& problem = work.problem;
  work.tiles_m = static_cast<int>(ceil_div<std::int64_t>(problem.m, Tile::m));
  work.tiles_n = static_cast<int>(ceil_div<std::int64_t>(problem.n, Tile::n));
  work.steps = static_cast<int>(ceil_div<std::int64_t>(problem.k, Tile::depth));
  work.partial_row = ceil_div<std::int64_t>(problem.n, 4) * 4;
  const Scratch<float> partials(
      op, work.splits > 1 ? work.splits * problem.results * problem.m * work.partial_row : 0);
  work.partials = partials.get();
  Launch shape;
  shape.block = dim3(Tile::threads);
  shape.shared_bytes =
      sizeof(typename Tile::Element) * Tile::stages * (Tile::A::size + Tile::B::size);
  constexpr std::int64_t most = 65535;  // of a grid's third axis
  for (work.first_result = 0; work.first_result < problem.results; work.first_result += most) {
    shape.grid = dim3(static_cast<unsigned>(std::int64_t{work.tiles_m} * work.tiles_n),
                      static_cast<unsigned>(work.splits),
                      static_cast<unsigned>(smaller(problem.results - work.first_result, most)));
    launch(op, shape, product_kernel<Tile, OperandA, OperandB, Finish>, work, a, b, finish);
  }
  if (work.splits > 1) finish_splits(op, work, finish);
}

}  // namespace detail

// Queues C_r = finish(...) for all results. Nothing to do where C is empty; with k = 0 all sums are
// 0.
template <class... Tile, class OperandA, class OperandB, class Finish>
void product(TileList<Tile...>, const char* op, const Problem& problem, const OperandA& a,
             const OperandB& b, const Finish& finish) {
  if (problem.m == 0 || problem.n == 0 || problem.results == 0) return;
  constexpr TileCost costs[] = {
      {Tile::m, Tile::n, Tile::depth, Tile::threads, Tile::blocks, Tile::rate}...};
  const auto steps = [&](int depth) {
    return problem.terms * ceil_div<std::int64_t>(problem.k, depth);
  };
  const Plan choice = plan(costs, static_cast<int>(sizeof...(Tile)), problem.m, problem.n,
                           problem.results, steps, properties().multiprocessors);
  detail::Work work{};
  work.problem = problem;
  work.splits = choice.splits;
  work.split_steps = choice.split_steps;
  int index = 0;
  ((index++ == choice.tile ? detail::launch_product<Tile>(op, work, a, b, finish) : void()), ...);
}

}  // namespace lamella::device::gemm
