// Tasks made of the rows of an array, neither too small nor too large.
#pragma once

#include "simd/task.h"

namespace lamella::LAMELLA_ISA {

// body(row, begin, end) for the columns [begin, end) of each row; `floats` is what one column
// reads. A task is several rows, or a piece of a long one: about 64 KB of input, so that it pays
// for its start and what neighbouring rows share is still in L1 or L2.
template <class Body>
LAMELLA_INLINE void parallel_rows(std::int64_t rows, std::int64_t columns, std::int64_t floats,
                                  const Body& body) {
  constexpr std::int64_t grain = 16384;
  const std::int64_t piece = max_i(1, grain / max_i(1, floats));
  if (piece < columns) {
    const std::int64_t pieces = ceil_div(columns, piece);
    parallel_for(rows * pieces, [&](std::int64_t i) {
      const std::int64_t begin = i % pieces * piece;
      body(i / pieces, begin, min_i(columns, begin + piece));
    });
  } else {
    parallel_chunks(rows, piece / columns, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) body(row, 0, columns);
    });
  }
}

}  // namespace lamella::LAMELLA_ISA
