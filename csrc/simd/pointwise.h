// One pass over arrays of one length, in parallel: the body is written once and runs on whole
// vectors and on the rest at the end.
#pragma once

#include "simd/task.h"

namespace lamella::LAMELLA_ISA {

// Where a vector lies in the arrays: the lanes from element i on.
struct WholeVector {
  std::int64_t i;
  LAMELLA_INLINE Float get(const float* p) const { return load(p + i); }
  LAMELLA_INLINE void put(float* p, Float v) const { store(p + i, v); }
};
struct PartOfVector {
  std::int64_t i;
  std::int64_t n;
  LAMELLA_INLINE Float get(const float* p) const { return load_n(p + i, n); }
  LAMELLA_INLINE void put(float* p, Float v) const { store_n(p + i, v, n); }
};

// at.put(p, v), past the caches with `streams`; then p begins at a whole vector, and so do its
// rows.
template <bool streams>
LAMELLA_INLINE void put_result(WholeVector at, float* p, Float v) {
  streams ? stream(p + at.i, v) : store(p + at.i, v);
}
template <bool streams>
LAMELLA_INLINE void put_result(PartOfVector at, float* p, Float v) {
  at.put(p, v);
}

// body(place) for the vectors of [begin, end), `unroll` of them in one turn of the loop.
template <int unroll = 1, class Body>
LAMELLA_INLINE void for_vectors(std::int64_t begin, std::int64_t end, const Body& body) {
  std::int64_t i = begin;
  if constexpr (unroll > 1) {
    for (; i + unroll * Float::width <= end; i += unroll * Float::width) {
      for (int u = 0; u < unroll; ++u) body(WholeVector{i + u * Float::width});
    }
  }
  for (; i + Float::width <= end; i += Float::width) body(WholeVector{i});
  if (i < end) body(PartOfVector{i, end - i});
}

// Three arrays of a chunk fit L2, and a chunk is worth waking a thread for.
constexpr std::int64_t pointwise_chunk = 16384;

template <class Body>
LAMELLA_INLINE void parallel_vectors(std::int64_t size, const Body& body) {
  parallel_chunks(size, pointwise_chunk,
                  [&](std::int64_t begin, std::int64_t end) { for_vectors(begin, end, body); });
}

}  // namespace lamella::LAMELLA_ISA
