// Batch normalization. What limits it is memory: forward reads x twice (statistics, result) and
// writes y, backward reads x and dy twice and writes dx.
//
// Fewer channels than a vector has lanes would leave lanes idle. Then `width` rows are taken as one
// of channels * width columns, which is a whole number of vectors; the last rows, too few for that,
// are added one by one.
#include "ops/batch_norm/batch_norm.h"

#include "core/memory_pool.h"
#include "simd/column_sums.h"
#include "simd/parallel_rows.h"

namespace lamella::LAMELLA_ISA {
namespace {

using batch_norm::Backward;
using batch_norm::Forward;

constexpr const char* op = "batch_norm";

// (rows, channels) as (folded_rows, columns) and `rest` rows behind those.
struct Layout {
  std::int64_t rows;
  std::int64_t channels;
  std::int64_t folds;
  std::int64_t columns;
  std::int64_t folded_rows;
  std::int64_t rest;
  // Tasks of the reductions: a chunk of rows of a block of columns, small enough for L1 or L2.
  std::int64_t block;
  std::int64_t chunk;
  std::int64_t chunks;

  Layout(std::int64_t rows_, std::int64_t channels_) : rows(rows_), channels(channels_) {
    folds = channels < Float::width ? Float::width : 1;
    columns = channels * folds;
    folded_rows = rows / folds;
    rest = rows % folds;
    block = min_i(columns, 256);
    chunk = max_i(64, 8192 / block);
    chunks = ceil_div(folded_rows, chunk);
  }
  std::int64_t chunk_rows(std::int64_t i) const { return min_i(chunk, folded_rows - i * chunk); }
  std::int64_t first_rest() const { return folded_rows * columns; }
};

// body(i, first, n, begin, end): the columns [begin, end) of the n rows of chunk i, which begin at
// element `first`.
template <class Body>
LAMELLA_INLINE void each_chunk(const Layout& layout, const Body& body) {
  parallel_rows(layout.chunks, ceil_div(layout.columns, layout.block), layout.chunk * layout.block,
                [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
                  body(i, i * layout.chunk * layout.columns, layout.chunk_rows(i),
                       begin * layout.block, min_i(layout.columns, end * layout.block));
                });
}

// out[c] = the sum over chunks and folds of term(i, column) and over the rest of rest_term(element,
// c), all in order and in double.
template <class Term, class RestTerm>
LAMELLA_INLINE void combine(const Layout& layout, double* out, const Term& term,
                            const RestTerm& rest_term) {
  const std::int64_t channels = layout.channels;
  parallel_rows(1, channels, layout.chunks * layout.folds + 1,
                [&](std::int64_t, std::int64_t begin, std::int64_t end) {
                  for (std::int64_t c = begin; c < end; ++c) out[c] = 0.0;
                  for (std::int64_t i = 0; i < layout.chunks; ++i) {
                    for (std::int64_t f = 0; f < layout.folds; ++f) {
                      for (std::int64_t c = begin; c < end; ++c) {
                        out[c] += term(i, f * channels + c, c);
                      }
                    }
                  }
                  for (std::int64_t r = 0; r < layout.rest; ++r) {
                    for (std::int64_t c = begin; c < end; ++c) {
                      out[c] += rest_term(layout.first_rest() + r * channels + c, c);
                    }
                  }
                });
}

// Of each chunk and column: a center near the mean, and the sums of the distances from it and of
// their squares.
struct ChunkMoments {
  float* center;  // (chunks, columns), as the others
  float* sum;
  float* squares;
};

void chunk_moments(const Layout& layout, const float* x, const ChunkMoments& moments) {
  each_chunk(layout, [&](std::int64_t i, std::int64_t first, std::int64_t n, std::int64_t begin,
                         std::int64_t end) {
    float* center = moments.center + i * layout.columns;
    column_sums(x + first + begin, n, end - begin, layout.columns, center + begin);
    const Float share = set(1.0f / static_cast<float>(n));
    for_column_groups(begin, end, [&](auto vectors, auto at) {
      constexpr int count = decltype(vectors)::count;
      Float middle[count], sum[count], squares[count];
      for (int v = 0; v < count; ++v) {
        const std::int64_t k = v * Float::width;
        middle[v] = at.get(center + k) * share;
        at.put(center + k, middle[v]);
        sum[v] = zero();
        squares[v] = zero();
      }
      for (std::int64_t r = 0; r < n; ++r) {
        for (int v = 0; v < count; ++v) {
          const Float d = at.get(x + first + r * layout.columns + v * Float::width) - middle[v];
          sum[v] = sum[v] + d;
          squares[v] = fma(d, d, squares[v]);
        }
      }
      for (int v = 0; v < count; ++v) {
        const std::int64_t k = i * layout.columns + v * Float::width;
        at.put(moments.sum + k, sum[v]);
        at.put(moments.squares + k, squares[v]);
      }
    });
  });
}

void statistics(std::int64_t rows, std::int64_t channels, const float* x, float* mean,
                float* variance) {
  const Layout layout(rows, channels);
  const std::int64_t size = layout.chunks * layout.columns;
  const Scratch<float> scratch(op, 3 * size);
  const Scratch<double> totals(op, 2 * channels);
  const ChunkMoments moments{scratch.get(), scratch.get() + size, scratch.get() + 2 * size};
  chunk_moments(layout, x, moments);
  const double share = 1.0 / static_cast<double>(rows);
  double* row_sum = totals.get();
  combine(
      layout, row_sum,
      [&](std::int64_t i, std::int64_t column, std::int64_t) {
        const std::int64_t k = i * layout.columns + column;
        const double n = static_cast<double>(layout.chunk_rows(i));
        const float center = moments.center[k];
        // The distances from an infinite center are NaN, but the mean is infinite.
        const float sum = center - center == 0.0f ? moments.sum[k] : 0.0f;
        return n * static_cast<double>(center) + static_cast<double>(sum);
      },
      [&](std::int64_t element, std::int64_t) { return static_cast<double>(x[element]); });
  double* squares = row_sum + channels;
  combine(
      layout, squares,
      // sum (x - mean)^2 = sum ((x - center) + (center - mean))^2
      [&](std::int64_t i, std::int64_t column, std::int64_t c) {
        const std::int64_t k = i * layout.columns + column;
        const double n = static_cast<double>(layout.chunk_rows(i));
        const double shift = static_cast<double>(moments.center[k]) - row_sum[c] * share;
        return static_cast<double>(moments.squares[k]) +
               shift * (2.0 * static_cast<double>(moments.sum[k]) + n * shift);
      },
      [&](std::int64_t element, std::int64_t c) {
        const double d = static_cast<double>(x[element]) - row_sum[c] * share;
        return d * d;
      });
  for (std::int64_t c = 0; c < channels; ++c) {
    mean[c] = static_cast<float>(row_sum[c] * share);
    // Rounding may leave a tiny negative sum where all rows are equal.
    variance[c] = squares[c] < 0.0 ? 0.0f : static_cast<float>(squares[c] * share);
  }
}

double inverse_deviation(float variance, double epsilon) {
  return 1.0 / __builtin_sqrt(static_cast<double>(variance) + epsilon);
}

// The coefficients of `value(c)`, repeated for each fold.
template <class Value>
LAMELLA_INLINE void fill_columns(const Layout& layout, float* out, const Value& value) {
  for (std::int64_t c = 0; c < layout.channels; ++c) out[c] = static_cast<float>(value(c));
  for (std::int64_t j = layout.channels; j < layout.columns; ++j) out[j] = out[j - layout.channels];
}

// body(first, at) for every vector: element `first` begins its row, `at` is its place there.
template <class Body>
LAMELLA_INLINE void each_vector(const Layout& layout, const Body& body) {
  constexpr std::int64_t piece = 1024;
  parallel_rows(layout.folded_rows, ceil_div(layout.columns, piece), min_i(layout.columns, piece),
                [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
                  for_vectors(begin * piece, min_i(layout.columns, end * piece),
                              [&](auto at) { body(row * layout.columns, at); });
                });
  for_vectors(0, layout.rest * layout.channels, [&](auto at) { body(layout.first_rest(), at); });
}

void forward(const Forward& p) {
  const Layout layout(p.rows, p.channels);
  const Scratch<float> coefficients(op, 3 * layout.columns);
  float* mean = coefficients.get();
  float* scale = mean + layout.columns;
  float* shift = scale + layout.columns;
  fill_columns(layout, mean, [&](std::int64_t c) { return p.mean[c]; });
  fill_columns(layout, scale, [&](std::int64_t c) {
    const double r = inverse_deviation(p.variance[c], p.epsilon);
    return p.gamma == nullptr ? r : static_cast<double>(p.gamma[c]) * r;
  });
  fill_columns(layout, shift, [&](std::int64_t c) { return p.beta == nullptr ? 0.0f : p.beta[c]; });
  each_vector(layout, [&](std::int64_t first, auto at) {
    const Float centered = at.get(p.x + first) - at.get(mean);
    at.put(p.y + first, fma(centered, at.get(scale), at.get(shift)));
  });
}

// sums[c] = S, sums[channels + c] = C of batch_norm.h.
void gradient_sums(const Layout& layout, const Backward& p, const float* mean, double* sums) {
  const std::int64_t size = layout.chunks * layout.columns;
  const Scratch<float> scratch(op, 2 * size);
  float* plain = scratch.get();
  float* centered = plain + size;
  each_chunk(layout, [&](std::int64_t i, std::int64_t first, std::int64_t n, std::int64_t begin,
                         std::int64_t end) {
    for_column_groups(begin, end, [&](auto vectors, auto at) {
      constexpr int count = decltype(vectors)::count;
      Float middle[count], s[count], c[count];
      for (int v = 0; v < count; ++v) {
        middle[v] = at.get(mean + v * Float::width);
        s[v] = zero();
        c[v] = zero();
      }
      for (std::int64_t r = 0; r < n; ++r) {
        for (int v = 0; v < count; ++v) {
          const std::int64_t k = first + r * layout.columns + v * Float::width;
          const Float gradient = at.get(p.dy + k);
          s[v] = s[v] + gradient;
          c[v] = fma(gradient, at.get(p.x + k) - middle[v], c[v]);
        }
      }
      for (int v = 0; v < count; ++v) {
        const std::int64_t k = i * layout.columns + v * Float::width;
        at.put(plain + k, s[v]);
        at.put(centered + k, c[v]);
      }
    });
  });
  const auto chunk_sum = [&](const float* partial) {
    return [&layout, partial](std::int64_t i, std::int64_t column, std::int64_t) {
      return static_cast<double>(partial[i * layout.columns + column]);
    };
  };
  combine(layout, sums, chunk_sum(plain),
          [&](std::int64_t k, std::int64_t) { return static_cast<double>(p.dy[k]); });
  combine(layout, sums + p.channels, chunk_sum(centered), [&](std::int64_t k, std::int64_t c) {
    return static_cast<double>(p.dy[k]) *
           (static_cast<double>(p.x[k]) - static_cast<double>(p.mean[c]));
  });
}

void backward(const Backward& p) {
  const Layout layout(p.rows, p.channels);
  const Scratch<float> coefficients(op, 4 * layout.columns);
  const Scratch<double> sums(op, 2 * p.channels);
  float* mean = coefficients.get();
  float* slope = mean + layout.columns;  // of dx: slope dy + curve (x - mean) + shift
  float* curve = slope + layout.columns;
  float* shift = curve + layout.columns;
  fill_columns(layout, mean, [&](std::int64_t c) { return p.mean[c]; });
  const bool wants_parameters =
      p.d_gamma != nullptr || p.d_beta != nullptr || p.d_mean != nullptr || p.d_variance != nullptr;
  const bool couples_rows = p.own_statistics && p.dx != nullptr;
  if (wants_parameters || couples_rows) gradient_sums(layout, p, mean, sums.get());

  const auto r = [&](std::int64_t c) { return inverse_deviation(p.variance[c], p.epsilon); };
  const auto factor = [&](std::int64_t c) {
    return p.gamma == nullptr ? r(c) : static_cast<double>(p.gamma[c]) * r(c);
  };
  const auto d_mean = [&](std::int64_t c) { return -factor(c) * sums.get()[c]; };
  const auto d_variance = [&](std::int64_t c) {
    return -0.5 * factor(c) * r(c) * r(c) * sums.get()[p.channels + c];
  };
  const auto store_all = [&](float* out, const auto& value) {
    if (out == nullptr) return;
    for (std::int64_t c = 0; c < p.channels; ++c) out[c] = static_cast<float>(value(c));
  };
  store_all(p.d_gamma, [&](std::int64_t c) { return r(c) * sums.get()[p.channels + c]; });
  store_all(p.d_beta, [&](std::int64_t c) { return sums.get()[c]; });
  store_all(p.d_mean, d_mean);
  store_all(p.d_variance, d_variance);
  if (p.dx == nullptr) return;

  fill_columns(layout, slope, factor);
  if (!p.own_statistics) {
    return each_vector(layout, [&](std::int64_t first, auto at) {
      at.put(p.dx + first, at.get(p.dy + first) * at.get(slope));
    });
  }
  const double share = 1.0 / static_cast<double>(p.rows);
  const auto own = [](const float* gradient, std::int64_t c) {
    return gradient == nullptr ? 0.0 : static_cast<double>(gradient[c]);
  };
  fill_columns(layout, curve, [&](std::int64_t c) {
    return 2.0 * share * (d_variance(c) + own(p.d_own_variance, c));
  });
  fill_columns(layout, shift,
               [&](std::int64_t c) { return share * (d_mean(c) + own(p.d_own_mean, c)); });
  each_vector(layout, [&](std::int64_t first, auto at) {
    const Float centered = at.get(p.x + first) - at.get(mean);
    const Float others = fma(centered, at.get(curve), at.get(shift));
    at.put(p.dx + first, fma(at.get(p.dy + first), at.get(slope), others));
  });
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::batch_norm::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::statistics, kernel::forward, kernel::backward};

}  // namespace lamella::batch_norm::LAMELLA_ISA
