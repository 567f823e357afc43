// Elementwise arithmetic with broadcasting. Bound by memory: a thread makes 4 neighbouring results
// with 16-byte accesses where the addresses allow them.
#include "cuda/kernel.cuh"
#include "cuda/pointwise.cuh"
#include "cuda/sum_axis.cuh"
#include "ops/elementwise/elementwise.h"

namespace lamella::LAMELLA_ISA {
namespace {

using elementwise::Broadcast;
using elementwise::Operation;
using elementwise::RowCopy;

template <Operation operation>
__device__ float apply(float a, float b) {
  return operation == Operation::add ? a + b : a * b;
}

// y[i] = a[i * a_step] (op) b[i * b_step], steps 0 or 1.
template <Operation operation, bool a_repeated, bool b_repeated>
struct Binary {
  const float* a;
  const float* b;
  float* y;

  template <int width>
  __device__ void run(std::int64_t i) const {
    float x[width];
    float z[width];
    get<a_repeated>(a, i, x);
    get<b_repeated>(b, i, z);
#pragma unroll
    for (int j = 0; j < width; ++j) x[j] = apply<operation>(x[j], z[j]);
    store(y + i, x);
  }

  template <bool repeated, int width>
  __device__ static void get(const float* p, std::int64_t i, float (&values)[width]) {
    if constexpr (repeated) {
#pragma unroll
      for (int j = 0; j < width; ++j) values[j] = *p;
    } else {
      load(p + i, values);
    }
  }
};

// A size to divide by, in unsigned 32-bit numbers below 2^31: one high product and a shift
// (Granlund & Montgomery, "Division by invariant integers using multiplication", PLDI 1994).
struct Divisor32 {
  std::uint32_t size, factor, shift;

  void set(std::int64_t divisor) {
    size = static_cast<std::uint32_t>(divisor);
    shift = 0;
    while ((std::uint64_t{1} << shift) < size) ++shift;
    const std::uint64_t power = std::uint64_t{1} << shift;
    factor = static_cast<std::uint32_t>((power - size) * (std::uint64_t{1} << 32) / size + 1);
  }
  __device__ std::uint32_t divide(std::uint32_t x) const {
    return (__umulhi(factor, x) + x) >> shift;
  }
};
struct Divisor64 {
  std::uint64_t size;

  void set(std::int64_t divisor) { size = static_cast<std::uint64_t>(divisor); }
  __device__ std::uint64_t divide(std::uint64_t x) const { return x / size; }
};

// The broadcast as a kernel walks it.
template <class Index_, class Divisor_, int max_axes>
struct Walk {
  using Index = Index_;
  using Divisor = Divisor_;

  int ndim;
  Divisor size[max_axes];
  std::int64_t a_stride[max_axes];
  std::int64_t b_stride[max_axes];

  static bool fits(const Broadcast& shape, std::int64_t total) {
    return shape.ndim <= max_axes && (sizeof(Index) == 8 || total < (std::int64_t{1} << 31));
  }
  explicit Walk(const Broadcast& shape) : ndim(shape.ndim) {
    for (int axis = 0; axis < ndim; ++axis) {
      size[axis].set(shape.size[axis]);
      a_stride[axis] = shape.a_stride[axis];
      b_stride[axis] = shape.b_stride[axis];
    }
  }

  // Where result i finds its operands; returns its index along the last axis.
  __device__ Index find(Index i, std::int64_t& a, std::int64_t& b) const {
    Index last = 0;
    a = 0;
    b = 0;
    for (int axis = ndim - 1; axis >= 0; --axis) {
      const Index rest = size[axis].divide(i);
      const Index index = i - rest * static_cast<Index>(size[axis].size);
      if (axis == ndim - 1) last = index;
      a += index * a_stride[axis];
      b += index * b_stride[axis];
      i = rest;
    }
    return last;
  }
};
using SmallWalk = Walk<std::uint32_t, Divisor32, 8>;
using AnyWalk = Walk<std::uint64_t, Divisor64, elementwise::max_axes>;

// Four neighbours along an axis of stride 0 or 1.
__device__ inline void get_four(const float* p, std::int64_t stride, float (&values)[4]) {
  if (stride == 0) {
#pragma unroll
    for (int j = 0; j < 4; ++j) values[j] = *p;
  } else if (reinterpret_cast<std::uintptr_t>(p) % 16 == 0) {
    load(p, values);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) values[j] = p[j];
  }
}

template <Operation operation, class Walk>
__global__ void __launch_bounds__(256)
    binary_kernel(const std::int64_t total, const Walk walk, const float* const a,
                  const float* const b, float* const y) {
  using Index = typename Walk::Index;
  const int last = walk.ndim - 1;
  const Index row = static_cast<Index>(walk.size[last].size);
  for (std::int64_t group = grid_thread(); group * 4 < total; group += grid_threads()) {
    const std::int64_t first = group * 4;
    const int count = static_cast<int>(smaller<std::int64_t>(4, total - first));
    std::int64_t a_at;
    std::int64_t b_at;
    const Index index = walk.find(static_cast<Index>(first), a_at, b_at);
    if (count == 4 && index + 4 <= row) {
      float x[4];
      float z[4];
      get_four(a + a_at, walk.a_stride[last], x);
      get_four(b + b_at, walk.b_stride[last], z);
#pragma unroll
      for (int j = 0; j < 4; ++j) x[j] = apply<operation>(x[j], z[j]);
      store(y + first, x);  // results are aligned
      continue;
    }
    for (int j = 0; j < count; ++j) {
      if (j > 0) walk.find(static_cast<Index>(first + j), a_at, b_at);
      y[first + j] = apply<operation>(a[a_at], b[b_at]);
    }
  }
}

template <Operation operation>
void binary_of(const Broadcast& shape, const float* a, const float* b, float* y) {
  constexpr const char* op = operation == Operation::add ? "add" : "multiply";
  std::int64_t total = 1;
  for (int axis = 0; axis < shape.ndim; ++axis) total *= shape.size[axis];
  if (total == 0) return;
  if (shape.ndim == 1) {
    const bool a_vectors = shape.a_stride[0] == 0 || aligned_for_vectors(a);
    const bool b_vectors = shape.b_stride[0] == 0 || aligned_for_vectors(b);
    const bool vectors = a_vectors && b_vectors && aligned_for_vectors(y);
    if (shape.a_stride[0] == 0) {
      return pointwise(op, total, vectors, Binary<operation, true, false>{a, b, y});
    }
    if (shape.b_stride[0] == 0) {
      return pointwise(op, total, vectors, Binary<operation, false, true>{a, b, y});
    }
    return pointwise(op, total, vectors, Binary<operation, false, false>{a, b, y});
  }
  if (SmallWalk::fits(shape, total)) {
    return launch(op, elements(total), binary_kernel<operation, SmallWalk>, total, SmallWalk(shape),
                  a, b, y);
  }
  launch(op, elements(total), binary_kernel<operation, AnyWalk>, total, AnyWalk(shape), a, b, y);
}

void binary(Operation operation, const Broadcast& shape, const float* a, const float* b, float* y) {
  if (operation == Operation::add) return binary_of<Operation::add>(shape, a, b, y);
  binary_of<Operation::multiply>(shape, a, b, y);
}

void sums_over_axis(const char* op, std::int64_t outer, std::int64_t summed, std::int64_t inner,
                    const float* dy, const float* other, float* sums) {
  if (other == nullptr) return sum_axis(op, outer, summed, inner, dy, sums);
  sum_axis(op, outer, summed, inner, aligned_for_vectors(dy, other), ProductTerms{dy, other}, sums);
}

struct Accumulate {
  const float* source;
  float* target;

  template <int width>
  __device__ void run(std::int64_t i) const {
    float x[width];
    float y[width];
    load(source + i, x);
    load(target + i, y);
#pragma unroll
    for (int j = 0; j < width; ++j) y[j] += x[j];
    store(target + i, y);
  }
};

void accumulate(std::int64_t size, const float* source, float* target) {
  pointwise("accumulate_", size, aligned_for_vectors(source, target), Accumulate{source, target});
}

// Rows of `across` accesses.
template <int width>
__global__ void __launch_bounds__(256) copy_rows_kernel(const RowCopy copy) {
  const std::int64_t across = copy.n / width;
  for (std::int64_t i = grid_thread(); i < copy.rows * across; i += grid_threads()) {
    const std::int64_t row = i / across;
    const std::int64_t column = i % across * width;
    float values[width];
    load(copy.source + row * copy.source_stride + column, values);
    store(copy.target + row * copy.target_stride + column, values);
  }
}

void copy_rows(const RowCopy& copy) {
  constexpr const char* op = "concatenate";
  if (copy.rows == 0 || copy.n == 0) return;
  if (copy.rows == 1 || (copy.source_stride == copy.n && copy.target_stride == copy.n)) {
    return copy_on_device(copy.target, copy.source,
                          sizeof(float) * static_cast<std::size_t>(copy.rows * copy.n));
  }
  const bool vectors = aligned_for_vectors(copy.source, copy.target) && copy.n % 4 == 0 &&
                       copy.source_stride % 4 == 0 && copy.target_stride % 4 == 0;
  if (vectors) return launch(op, elements(copy.rows * copy.n), copy_rows_kernel<4>, copy);
  launch(op, elements(copy.rows * copy.n), copy_rows_kernel<1>, copy);
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::elementwise::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::binary, kernel::sums_over_axis, kernel::accumulate,
                                kernel::copy_rows};

}  // namespace lamella::elementwise::LAMELLA_ISA
