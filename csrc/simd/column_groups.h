// Neighbouring columns of a matrix in vectors: four at a time, which are whole cache lines and
// enough sums in flight to hide an addition's latency, then one at a time.
#pragma once

#include "simd/pointwise.h"

namespace lamella::LAMELLA_ISA {

// A number of vectors as a type, for generic lambdas.
template <int vectors>
struct Vectors {
  static constexpr int count = vectors;
};

constexpr std::int64_t column_group = 4 * Float::width;

// body(Vectors<n>{}, at): the n vectors that begin at column at.i + v * Float::width, v in [0, n).
template <class Body>
LAMELLA_INLINE void for_column_groups(std::int64_t begin, std::int64_t end, const Body& body) {
  std::int64_t c = begin;
  for (; c + column_group <= end; c += column_group) body(Vectors<4>{}, WholeVector{c});
  for_vectors(c, end, [&](auto at) { body(Vectors<1>{}, at); });
}

}  // namespace lamella::LAMELLA_ISA
