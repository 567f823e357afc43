// The one microkernel family behind dense, convolution and the products inside other ops:
//
//   C[r][j] = (bias[j] | C[r][j] | 0) + sum over segments s, sum over k < length_s of
//             A_s(r, k) * B[b_s + k * b_stride + j]          0 <= r < rows, 0 <= j < columns
//
// kept in registers from the first term to the last: `rows` broadcasts of A times `vectors` vectors
// of B are rows * vectors independent FMA chains. A segment is a run of the reduction over which A
// and B are both regular: one for a plain product, one a filter row for a convolution.
//
// A comes in three forms, so that nothing has to be rearranged in memory first:
//   rows     A_s(r, k) = a[r][a_s + k]             row-major matrix, convolution input
//   columns  A_s(r, k) = a[0][a_s + k * a_step + r]   transposed matrix, weight gradient
//   gather   A_s(r, k) = a[r][a_s + k * a_step]    weight gradient with few channels
//
// B is read in whole vectors: the caller sees to it that vectors * width columns are readable.
// C is written only in its `columns` columns.
#pragma once

#include "simd/read_ahead.h"
#include "simd/vec.h"

namespace lamella::LAMELLA_ISA {

// Register tiles: 6 x 4 or 12 x 2 vectors fill 24 of 32 registers, 6 x 2 fill 12 of 16; the rest
// holds the vectors of B and a broadcast of A. 6 x 4 is the best of them: fewer pointers to rows,
// and C is met in longer pieces. Few rows take 4 vectors everywhere, to keep enough chains going.
constexpr int max_tile_rows = Float::registers == 32 ? 12 : 6;
constexpr int wide_tile_rows = Float::registers == 32 ? 6 : 2;  // up to here 4 vectors fit

constexpr int max_tile_vectors = 4;

// The height of a full tile.
LAMELLA_INLINE std::int64_t full_tile_rows(std::int64_t vectors) {
  if (vectors == 3) return Float::registers == 32 ? 8 : 3;
  return vectors == 4 ? wide_tile_rows : max_tile_rows;
}

// The least width that covers so many columns, in vectors.
LAMELLA_INLINE int tile_vectors(std::int64_t columns) {
  return columns <= Float::width       ? 1
         : columns <= 2 * Float::width ? 2
         : columns <= 3 * Float::width ? 3
                                       : 4;
}

// Whether whole vectors of B's rows lie within cache lines. NumPy aligns to 16 bytes only.
LAMELLA_INLINE bool is_aligned(const float* b, std::int64_t row_stride) {
  return (reinterpret_cast<std::uintptr_t>(b) | static_cast<std::uintptr_t>(row_stride) * 4) % 64 ==
         0;
}

// The width of the panels that B is cut into where A has many rows: 4 where that fits the registers
// and leaves no panel half empty.
LAMELLA_INLINE int panel_vectors(std::int64_t columns) {
  if (columns <= 2 * Float::width || wide_tile_rows < 4) {
    return columns <= Float::width ? 1 : 2;
  }
  const std::int64_t rest = columns % (4 * Float::width);
  return rest == 0 || rest > 2 * Float::width || columns >= 8 * Float::width ? 4 : 2;
}

enum class Form { rows, columns, gather };

struct Segment {
  std::int64_t a;       // offset in floats, added to every row of A
  std::int64_t b;       // offset in floats into B
  std::int64_t length;  // terms
};

struct Tile {
  const float* const* a;
  std::int64_t a_step;
  const Segment* segments;
  std::int64_t segment_count;
  const float* b;
  std::int64_t b_stride;
  float* const* c;
  std::int64_t columns;
  const float* bias;  // null: none. Ignored when accumulate is set.
  bool accumulate;
  bool relu;    // C = max(C, 0) at the end
  bool stream;  // C is written past the caches, if all its columns are (can_stream holds)
  Lines ahead;  // columns form: prefetched a line a term
};

using TileKernel = void (*)(const Tile&);

// 1 <= rows <= full_tile_rows(vectors); 1 to 4 vectors, to gather 1 or 2.
TileKernel tile_kernel(Form form, std::int64_t rows, int vectors);

}  // namespace lamella::LAMELLA_ISA
