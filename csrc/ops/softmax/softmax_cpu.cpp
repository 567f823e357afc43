// softmax and log_softmax. Along the last axis: rows of at most four vectors stay in registers,
// longer ones in L1 between three passes, and a few very long ones are cut into chunks for all
// threads. Along any other axis: vectors of neighbouring columns, nothing is transposed.
#include "ops/softmax/softmax.h"

#include "core/memory_pool.h"
#include "simd/column_groups.h"
#include "simd/parallel_rows.h"
#include "simd/softmax_row.h"

namespace lamella::LAMELLA_ISA {
namespace {

using softmax::Axis;

constexpr int register_vectors = 4;
// A row this long is shared by the threads where there are fewer than `few_rows`.
constexpr std::int64_t long_row = 65536;
constexpr std::int64_t few_rows = 8;
constexpr std::int64_t chunk = 16384;
// Elements of a column in one running sum: sums of sums keep a digit more.
constexpr std::int64_t sum_block = 32;

// x (size) -> y (size), the last of `vectors` vectors perhaps a partial one.
template <int vectors, bool logarithm>
LAMELLA_INLINE void row_in_registers(const float* x, std::int64_t size, float* y) {
  constexpr std::int64_t last = (vectors - 1) * Float::width;
  Float v[vectors];
  for (int i = 0; i < vectors - 1; ++i) v[i] = load(x + i * Float::width);
  const std::int64_t rest = size - last;
  v[vectors - 1] = rest == Float::width
                       ? load(x + last)
                       : first_lanes_or(load_n(x + last, rest), rest, set(minus_infinity));
  Float m = v[0];
  for (int i = 1; i < vectors; ++i) m = max(m, v[i]);
  m = set(maximum(m));
  Float total = zero();
  for (int i = 0; i < vectors; ++i) {
    v[i] = v[i] - m;
    const Float e = exp_nonpositive(v[i]);
    total = total + e;
    if constexpr (!logarithm) v[i] = e;
  }
  const float s = sum(total);
  const Float factor = logarithm ? log(set(s)) : set(1.0f / s);
  const auto result = [&](int i) { return logarithm ? v[i] - factor : v[i] * factor; };
  for (int i = 0; i < vectors - 1; ++i) store(y + i * Float::width, result(i));
  if (rest == Float::width) return store(y + last, result(vectors - 1));
  store_n(y + last, result(vectors - 1), rest);
}

// Returns the sum of e^(x - m); y receives the terms where the last pass wants them.
template <bool logarithm>
float exponentials(const float* x, std::int64_t size, float m, float* y) {
  const auto sums = row_sums<1>(size, [&](auto at, Float* s) {
    const Float e = exponential(x, at, set(m));
    s[0] = s[0] + e;
    if constexpr (!logarithm) at.put(y, e);
  });
  return sums.sum[0];
}

// The last pass: y holds the exponentials, or nothing yet for the logarithm.
template <bool logarithm>
LAMELLA_INLINE void normalize(const float* x, std::int64_t size, float m, float factor, float* y) {
  for_vectors(0, size, [&](auto at) {
    if constexpr (logarithm) {
      at.put(y, (at.get(x) - set(m)) - set(factor));
    } else {
      at.put(y, at.get(y) * set(factor));
    }
  });
}

template <bool logarithm>
LAMELLA_INLINE float normalizer(float total) {
  return logarithm ? scalar_log(total) : 1.0f / total;
}

template <bool logarithm>
void row_in_cache(const float* x, std::int64_t size, float* y) {
  const float m = row_maximum(x, size);
  const float total = exponentials<logarithm>(x, size, m, y);
  normalize<logarithm>(x, size, m, normalizer<logarithm>(total), y);
}

// One row on all threads; `maxima` and `sums` hold a value a chunk.
template <bool logarithm>
void row_in_chunks(const float* x, std::int64_t size, float* maxima, float* sums, float* y) {
  const std::int64_t chunks = ceil_div(size, chunk);
  const auto each_chunk = [&](const auto& body) {
    parallel_for(chunks,
                 [&](std::int64_t i) { body(i, i * chunk, min_i(chunk, size - i * chunk)); });
  };
  each_chunk([&](std::int64_t i, std::int64_t first, std::int64_t n) {
    maxima[i] = row_maximum(x + first, n);
  });
  const float m = row_maximum(maxima, chunks);
  each_chunk([&](std::int64_t i, std::int64_t first, std::int64_t n) {
    sums[i] = exponentials<logarithm>(x + first, n, m, y + first);
  });
  float total = 0.0f;
  for (std::int64_t i = 0; i < chunks; ++i) total += sums[i];
  const float factor = normalizer<logarithm>(total);
  each_chunk([&](std::int64_t, std::int64_t first, std::int64_t n) {
    normalize<logarithm>(x + first, n, m, factor, y + first);
  });
}

template <bool logarithm>
void forward_rows(std::int64_t rows, std::int64_t size, const float* x, float* y) {
  if (size >= long_row && rows < few_rows) {
    const std::int64_t chunks = ceil_div(size, chunk);
    const Scratch<float> scratch("softmax", 2 * chunks);
    for (std::int64_t r = 0; r < rows; ++r) {
      row_in_chunks<logarithm>(x + r * size, size, scratch.get(), scratch.get() + chunks,
                               y + r * size);
    }
    return;
  }
  const auto each_row = [&](auto row_function) {
    parallel_rows(rows, 1, size, [&](std::int64_t r, std::int64_t, std::int64_t) {
      row_function(x + r * size, size, y + r * size);
    });
  };
  static_assert(register_vectors == 4);
  switch (size > register_vectors * Float::width ? 0 : ceil_div(size, Float::width)) {
    case 1:
      return each_row([](auto... row) { row_in_registers<1, logarithm>(row...); });
    case 2:
      return each_row([](auto... row) { row_in_registers<2, logarithm>(row...); });
    case 3:
      return each_row([](auto... row) { row_in_registers<3, logarithm>(row...); });
    case 4:
      return each_row([](auto... row) { row_in_registers<4, logarithm>(row...); });
    default:
      return each_row([](auto... row) { row_in_cache<logarithm>(row...); });
  }
}

// `vectors` vectors of neighbouring columns, `at` the first: elements lie `stride` floats apart.
template <int vectors, bool logarithm, class Place>
LAMELLA_INLINE void forward_columns(Place at, std::int64_t size, std::int64_t stride,
                                    const float* x, float* y) {
  Float m[vectors], total[vectors];
  for (int v = 0; v < vectors; ++v) {
    m[v] = at.get(x + v * Float::width);
    total[v] = zero();
  }
  for (std::int64_t i = 1; i < size; ++i) {
    for (int v = 0; v < vectors; ++v) {
      m[v] = max(m[v], at.get(x + i * stride + v * Float::width));
    }
  }
  for (std::int64_t begin = 0; begin < size; begin += sum_block) {
    Float part[vectors];
    for (int v = 0; v < vectors; ++v) part[v] = zero();
    for (std::int64_t i = begin; i < min_i(size, begin + sum_block); ++i) {
      for (int v = 0; v < vectors; ++v) {
        const std::int64_t k = i * stride + v * Float::width;
        const Float e = exp_nonpositive(at.get(x + k) - m[v]);
        part[v] = part[v] + e;
        if constexpr (!logarithm) at.put(y + k, e);
      }
    }
    for (int v = 0; v < vectors; ++v) total[v] = total[v] + part[v];
  }
  for (int v = 0; v < vectors; ++v) total[v] = logarithm ? log(total[v]) : set(1.0f) / total[v];
  for (std::int64_t i = 0; i < size; ++i) {
    for (int v = 0; v < vectors; ++v) {
      const std::int64_t k = i * stride + v * Float::width;
      at.put(y + k, logarithm ? (at.get(x + k) - m[v]) - total[v] : at.get(y + k) * total[v]);
    }
  }
}

template <int vectors, bool logarithm, class Place>
LAMELLA_INLINE void backward_columns(Place at, std::int64_t size, std::int64_t stride,
                                     const float* dy, const float* y, float* dx) {
  Float total[vectors];
  for (int v = 0; v < vectors; ++v) total[v] = zero();
  for (std::int64_t begin = 0; begin < size; begin += sum_block) {
    Float part[vectors];
    for (int v = 0; v < vectors; ++v) part[v] = zero();
    for (std::int64_t i = begin; i < min_i(size, begin + sum_block); ++i) {
      for (int v = 0; v < vectors; ++v) {
        const std::int64_t k = i * stride + v * Float::width;
        const Float gradient = at.get(dy + k);
        part[v] = logarithm ? part[v] + gradient : fma(gradient, at.get(y + k), part[v]);
      }
    }
    for (int v = 0; v < vectors; ++v) total[v] = total[v] + part[v];
  }
  for (std::int64_t i = 0; i < size; ++i) {
    for (int v = 0; v < vectors; ++v) {
      const std::int64_t k = i * stride + v * Float::width;
      const Float result = at.get(y + k);
      const Float gradient = at.get(dy + k);
      at.put(dx + k, logarithm ? fnma(exp_nonpositive(result), total[v], gradient)
                               : result * (gradient - total[v]));
    }
  }
}

// body(vectors, at, first) for the columns of each block, which begins at `first`.
template <class Body>
LAMELLA_INLINE void each_column_group(const Axis& axis, const Body& body) {
  parallel_rows(
      axis.outer, ceil_div(axis.inner, column_group), axis.size * min_i(axis.inner, column_group),
      [&](std::int64_t o, std::int64_t begin, std::int64_t end) {
        for_column_groups(
            begin * column_group, min_i(axis.inner, end * column_group),
            [&](auto vectors, auto at) { body(vectors, at, o * axis.size * axis.inner); });
      });
}

template <bool logarithm>
void forward_axis(const Axis& axis, const float* x, float* y) {
  if (axis.inner == 1) return forward_rows<logarithm>(axis.outer, axis.size, x, y);
  each_column_group(axis, [&](auto vectors, auto at, std::int64_t first) {
    forward_columns<decltype(vectors)::count, logarithm>(at, axis.size, axis.inner, x + first,
                                                         y + first);
  });
}

template <bool logarithm>
LAMELLA_INLINE void backward_row(const float* dy, const float* y, std::int64_t size, float* dx) {
  const auto sums = row_sums<1>(size, [&](auto at, Float* s) {
    s[0] = logarithm ? s[0] + at.get(dy) : fma(at.get(dy), at.get(y), s[0]);
  });
  const Float total = set(sums.sum[0]);
  for_vectors(0, size, [&](auto at) {
    const Float result = at.get(y);
    const Float gradient = at.get(dy);
    at.put(dx, logarithm ? fnma(exp_nonpositive(result), total, gradient)
                         : result * (gradient - total));
  });
}

template <bool logarithm>
void backward_axis(const Axis& axis, const float* dy, const float* y, float* dx) {
  if (axis.inner == 1) {
    return parallel_rows(axis.outer, 1, axis.size, [&](std::int64_t r, std::int64_t, std::int64_t) {
      const std::int64_t first = r * axis.size;
      backward_row<logarithm>(dy + first, y + first, axis.size, dx + first);
    });
  }
  each_column_group(axis, [&](auto vectors, auto at, std::int64_t first) {
    backward_columns<decltype(vectors)::count, logarithm>(at, axis.size, axis.inner, dy + first,
                                                          y + first, dx + first);
  });
}

void forward(const Axis& axis, bool logarithm, const float* x, float* y) {
  logarithm ? forward_axis<true>(axis, x, y) : forward_axis<false>(axis, x, y);
}

void backward(const Axis& axis, bool logarithm, const float* dy, const float* y, float* dx) {
  logarithm ? backward_axis<true>(axis, dy, y, dx) : backward_axis<false>(axis, dy, y, dx);
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::softmax::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::forward, kernel::backward};

}  // namespace lamella::softmax::LAMELLA_ISA
