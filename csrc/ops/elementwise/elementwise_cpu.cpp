// Elementwise arithmetic: every function is one pass over memory, in tasks of about 16K elements.
#include "core/memory_pool.h"
#include "ops/elementwise/elementwise.h"
#include "simd/pointwise.h"

namespace lamella::LAMELLA_ISA {
namespace {

using elementwise::Broadcast;
using elementwise::Operation;
using elementwise::RowCopy;

constexpr std::int64_t chunk = pointwise_chunk;
// Rows shorter than this are joined to ones of at least `joined_row` where that is possible.
constexpr std::int64_t short_row = 64;
constexpr std::int64_t joined_row = 256;

// Cuts `rows` rows of `n` into tasks of about `chunk` elements; body(row_begin, row_end, begin,
// end) is a task's rows and its part of each row.
template <class Body>
LAMELLA_INLINE void parallel_rows(std::int64_t rows, std::int64_t n, const Body& body) {
  const std::int64_t rows_per_task = max_i(1, chunk / n);
  const std::int64_t parts = ceil_div(n, chunk);
  parallel_for(ceil_div(rows, rows_per_task) * parts, [&](std::int64_t task) {
    const std::int64_t row = task / parts * rows_per_task;
    const std::int64_t begin = task % parts * chunk;
    body(row, min_i(rows, row + rows_per_task), begin, min_i(n, begin + chunk));
  });
}

template <Operation operation>
LAMELLA_INLINE Float apply(Float a, Float b) {
  return operation == Operation::add ? a + b : a * b;
}

// An operand along the last axis: one element after the other, or one element for all.
struct Successive {
  const float* p;
  template <class Place>
  LAMELLA_INLINE Float get(Place place) const {
    return place.get(p);
  }
};
struct Repeated {
  Float v;
  LAMELLA_INLINE explicit Repeated(const float* p) : v(set(*p)) {}
  template <class Place>
  LAMELLA_INLINE Float get(Place) const {
    return v;
  }
};

template <Operation operation, class A, class B>
void binary_rows(const Broadcast& shape, const float* a, const float* b, float* y) {
  const int last = shape.ndim - 1;
  const std::int64_t n = shape.size[last];
  std::int64_t rows = 1;
  for (int axis = 0; axis < last; ++axis) rows *= shape.size[axis];
  parallel_rows(
      rows, n, [&](std::int64_t row, std::int64_t row_end, std::int64_t begin, std::int64_t end) {
        std::int64_t index[elementwise::max_axes];
        std::int64_t a_row = 0;
        std::int64_t b_row = 0;
        std::int64_t rest = row;
        for (int axis = last - 1; axis >= 0; --axis) {
          index[axis] = rest % shape.size[axis];
          rest /= shape.size[axis];
          a_row += index[axis] * shape.a_stride[axis];
          b_row += index[axis] * shape.b_stride[axis];
        }
        for (; row < row_end; ++row) {
          const A a_row_at{a + a_row};
          const B b_row_at{b + b_row};
          for_vectors(begin, end, [&](auto place) {
            place.put(y + row * n, apply<operation>(a_row_at.get(place), b_row_at.get(place)));
          });
          for (int axis = last - 1; axis >= 0; --axis) {
            a_row += shape.a_stride[axis];
            b_row += shape.b_stride[axis];
            if (++index[axis] < shape.size[axis]) break;
            a_row -= shape.size[axis] * shape.a_stride[axis];
            b_row -= shape.size[axis] * shape.b_stride[axis];
            index[axis] = 0;
          }
        }
      });
}

template <Operation operation>
void binary_broadcast(const Broadcast& shape, const float* a, const float* b, float* y) {
  const int last = shape.ndim - 1;
  if (shape.a_stride[last] == 0)
    return binary_rows<operation, Repeated, Successive>(shape, a, b, y);
  if (shape.b_stride[last] == 0)
    return binary_rows<operation, Successive, Repeated>(shape, a, b, y);
  binary_rows<operation, Successive, Successive>(shape, a, b, y);
}

// Whether one operand is (rows, n) and the other a short row (n), repeated.
bool is_short_row_repeated(const Broadcast& shape) {
  return shape.ndim == 2 && shape.size[1] < short_row && shape.a_stride[1] == 1 &&
         shape.b_stride[1] == 1 && (shape.a_stride[0] == 0 || shape.b_stride[0] == 0);
}

// The short row is written out several times, and that is what is repeated.
template <Operation operation>
void binary_short_row(const Broadcast& shape, const float* a, const float* b, float* y) {
  const std::int64_t rows = shape.size[0];
  const std::int64_t n = shape.size[1];
  if (shape.a_stride[0] == 0) {  // both operations commute
    const float* row = a;
    a = b;
    b = row;
  }
  const std::int64_t joined = min_i(rows, ceil_div(joined_row, n));
  const std::int64_t width = joined * n;
  float tile[joined_row + short_row];
  for (std::int64_t i = 0; i < width; ++i) tile[i] = b[i % n];
  const std::int64_t whole = rows / joined;
  binary_rows<operation, Successive, Successive>({2, {whole, width}, {width, 1}, {0, 1}}, a, tile,
                                                 y);
  const std::int64_t done = whole * width;
  if (done == rows * n) return;
  binary_rows<operation, Successive, Successive>({1, {rows * n - done}, {1}, {1}}, a + done, tile,
                                                 y + done);
}

void binary(Operation operation, const Broadcast& shape, const float* a, const float* b, float* y) {
  const bool is_add = operation == Operation::add;
  if (is_short_row_repeated(shape)) {
    if (is_add) return binary_short_row<Operation::add>(shape, a, b, y);
    return binary_short_row<Operation::multiply>(shape, a, b, y);
  }
  if (is_add) return binary_broadcast<Operation::add>(shape, a, b, y);
  binary_broadcast<Operation::multiply>(shape, a, b, y);
}

// What is summed: dy, or dy times the other operand.
struct Plain {
  const float* dy;
  LAMELLA_INLINE Plain from(std::int64_t i) const { return {dy + i}; }
  template <class Place>
  LAMELLA_INLINE Float get(Place place) const {
    return place.get(dy);
  }
};
struct Product {
  const float* dy;
  const float* other;
  LAMELLA_INLINE Product from(std::int64_t i) const { return {dy + i, other + i}; }
  template <class Place>
  LAMELLA_INLINE Float get(Place place) const {
    return place.get(dy) * place.get(other);
  }
};

template <class Terms>
LAMELLA_INLINE float sum_row(const Terms& terms, std::int64_t n) {
  Float s[4] = {zero(), zero(), zero(), zero()};
  std::int64_t i = 0;
  for (; i + 4 * Float::width <= n; i += 4 * Float::width) {
    for (int k = 0; k < 4; ++k) s[k] = s[k] + terms.get(WholeVector{i + k * Float::width});
  }
  for_vectors(i, n, [&](auto place) { s[0] = s[0] + terms.get(place); });
  return sum((s[0] + s[2]) + (s[1] + s[3]));
}

template <class Terms>
LAMELLA_INLINE void add_terms(const Terms& terms, std::int64_t n, float* sums) {
  for_vectors(0, n, [&](auto place) { place.put(sums, place.get(sums) + terms.get(place)); });
}

// sums[j], j in [begin, end), over `rows` rows of n terms.
template <class Terms>
LAMELLA_INLINE void sum_columns(const Terms& terms, std::int64_t rows, std::int64_t n,
                                std::int64_t begin, std::int64_t end, float* sums) {
  if (n >= short_row) {
    for (std::int64_t j = begin; j < end; ++j) sums[j] = 0.0f;
    for (std::int64_t row = 0; row < rows; ++row) {
      add_terms(terms.from(row * n + begin), end - begin, sums + begin);
    }
    return;
  }
  // Several short rows are summed side by side as one, then those sums.
  const std::int64_t joined = max_i(1, min_i(ceil_div(joined_row, n), rows / 8));
  const std::int64_t width = joined * n;
  float side_by_side[joined_row + short_row] = {};
  for (std::int64_t i = 0; i < rows * n; i += width) {
    add_terms(terms.from(i), min_i(width, rows * n - i), side_by_side);
  }
  for (std::int64_t j = 0; j < n; ++j) {
    float s = 0.0f;
    for (std::int64_t i = j; i < width; i += n) s += side_by_side[i];
    sums[j] = s;
  }
}

// The sums over blocks of rows: sums (outer, ceil(summed / block), inner).
template <class Terms>
void sum_blocks(std::int64_t outer, std::int64_t summed, std::int64_t inner, std::int64_t block,
                const Terms& terms, float* sums) {
  const std::int64_t blocks = ceil_div(summed, block);
  // A task takes part of a wide block, or one block, or several small ones.
  const std::int64_t columns = 4096;
  const std::int64_t parts = ceil_div(inner, columns);
  const std::int64_t group = max_i(1, chunk / (min_i(block, summed) * inner));
  const std::int64_t tasks = ceil_div(outer * blocks, group) * parts;
  parallel_for(tasks, [&](std::int64_t task) {
    const std::int64_t begin = task % parts * columns;
    const std::int64_t end = min_i(inner, begin + columns);
    const std::int64_t first = task / parts * group;
    const std::int64_t last = min_i(outer * blocks, first + group);
    std::int64_t start = first / blocks * summed;  // the first row of this sum's terms
    std::int64_t row = first % blocks * block;     // and the block's row in them
    for (std::int64_t i = first; i < last; ++i) {
      const std::int64_t rows = min_i(block, summed - row);
      const Terms block_terms = terms.from((start + row) * inner);
      if (inner == 1) {
        sums[i] = sum_row(block_terms, rows);
      } else {
        sum_columns(block_terms, rows, inner, begin, end, sums + i * inner);
      }
      row += block;
      if (row >= summed) {
        start += summed;
        row = 0;
      }
    }
  });
}

template <class Terms>
void sum_in_blocks(const char* op, std::int64_t outer, std::int64_t summed, std::int64_t inner,
                   const Terms& terms, float* sums) {
  const std::int64_t block = max_i(64, chunk / inner);
  if (summed <= block) return sum_blocks(outer, summed, inner, summed, terms, sums);
  const std::int64_t blocks = ceil_div(summed, block);
  const Scratch<float> partial(op, outer * blocks * inner);
  sum_blocks(outer, summed, inner, block, terms, partial.get());
  sum_in_blocks(op, outer, blocks, inner, Plain{partial.get()}, sums);
}

void sum_axis(const char* op, std::int64_t outer, std::int64_t summed, std::int64_t inner,
              const float* dy, const float* other, float* sums) {
  if (other == nullptr) return sum_in_blocks(op, outer, summed, inner, Plain{dy}, sums);
  sum_in_blocks(op, outer, summed, inner, Product{dy, other}, sums);
}

void accumulate(std::int64_t size, const float* source, float* target) {
  parallel_vectors(size,
                   [&](auto place) { place.put(target, place.get(target) + place.get(source)); });
}

void copy_rows(const RowCopy& copy) {
  parallel_rows(copy.rows, copy.n,
                [&](std::int64_t row, std::int64_t row_end, std::int64_t begin, std::int64_t end) {
                  for (; row < row_end; ++row) {
                    const float* source = copy.source + row * copy.source_stride;
                    float* target = copy.target + row * copy.target_stride;
                    for_vectors(begin, end,
                                [&](auto place) { place.put(target, place.get(source)); });
                  }
                });
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::elementwise::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::binary, kernel::sum_axis, kernel::accumulate,
                                kernel::copy_rows};

}  // namespace lamella::elementwise::LAMELLA_ISA
