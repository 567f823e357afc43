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
//               Tile::m, n, depth, stages, threads, blocks (wanted on a multiprocessor)
//               Tile::A, Tile::B: where element (row, k) of an operand's tile lies in shared memory:
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
//                 static constexpr bool unrolled;  // inlined for every value (short code), or looped
//                 // `count` (1 .. width) columns of row `row` of result `result` from `column` on.
//                 // Called once for each element, by one thread.
//                 template <int width>
//                 __device__ void operator()(std::int64_t result, std::int64_t row,
//                                            std::int64_t column, int count,
//                                            float (&values)[width]) const;
//               };
//             Store and Activate: gemm_finish.cuh.
//
//   gemm::product<Tiles>(op, problem, a, b, finish) chooses the tile (gemm_plan.h) and launches.
#pragma once

#include "core/memory_pool.h"
#include "cuda/copy.cuh"
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
