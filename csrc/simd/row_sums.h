// Sums over one contiguous row, on the calling thread.
#pragma once

#include "simd/pointwise.h"

namespace lamella::LAMELLA_ISA {

// 0 1 2 ...
LAMELLA_INLINE Float lane_numbers() {
  alignas(64) static constexpr float lane[16] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                 8, 9, 10, 11, 12, 13, 14, 15};
  return load(lane);
}

// The first n lanes of v, `other` in the rest.
LAMELLA_INLINE Float first_lanes_or(Float v, std::int64_t n, Float other) {
  return select(less(lane_numbers(), set(static_cast<float>(n))), v, other);
}

// v with `other` in the lanes that lie behind the end of the row.
LAMELLA_INLINE Float inside_or(Float v, WholeVector, Float) {
  return v;
}
LAMELLA_INLINE Float inside_or(Float v, PartOfVector at, Float other) {
  return first_lanes_or(v, at.n, other);
}

template <int count>
struct RowSums {
  float sum[count];
};

// add(at, sums) adds a vector to each of the `count` sums, for the vectors of the row; in the lanes
// behind the row's end it adds 0. Sums of sums: one running sum would lose a digit over a long row.
// With several `turns`, vectors are added to that many sums in turn: an addition need not wait for
// the one before it.
template <int count, int turns = 1, class Add>
LAMELLA_INLINE RowSums<count> row_sums(std::int64_t size, const Add& add) {
  constexpr std::int64_t width = Float::width;
  constexpr std::int64_t step = turns * width;
  constexpr std::int64_t block = 32 * step;
  Float total[count];
  for (int s = 0; s < count; ++s) total[s] = zero();
  std::int64_t i = 0;
  while (i + step <= size) {
    const std::int64_t last = min_i(size, i + block) - step;
    Float part[turns][count];
    for (int turn = 0; turn < turns; ++turn) {
      for (int s = 0; s < count; ++s) part[turn][s] = zero();
    }
    for (; i <= last; i += step) {
      for (int turn = 0; turn < turns; ++turn) add(WholeVector{i + turn * width}, part[turn]);
    }
    for (int turn = 0; turn < turns; ++turn) {
      for (int s = 0; s < count; ++s) total[s] = total[s] + part[turn][s];
    }
  }
  for (; i + width <= size; i += width) add(WholeVector{i}, total);
  if (i < size) add(PartOfVector{i, size - i}, total);
  RowSums<count> result;
  for (int s = 0; s < count; ++s) result.sum[s] = sum(total[s]);
  return result;
}

}  // namespace lamella::LAMELLA_ISA
