// Sums over the rows of an array (rows, channels), a channel at a time: mean and variance, and what
// their gradients need. Chunks of rows are summed where they lie in cache, around a center of their
// own, and combined in double, in order. Shared by batch_norm and group_norm.
//
// Fewer channels than a vector has lanes would leave lanes idle. Then `width` rows are taken as one
// of channels * width columns, which is a whole number of vectors; the last rows, too few for that,
// are added one by one.
#pragma once

#include "simd/column_sums.h"

namespace lamella::LAMELLA_ISA {

// (rows, channels) as (folded_rows, columns) and `rest` rows behind those.
struct ChannelRows {
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

  ChannelRows(std::int64_t rows_, std::int64_t channels_) : rows(rows_), channels(channels_) {
    folds = channels < Float::width ? Float::width : 1;
    columns = channels * folds;
    folded_rows = rows / folds;
    rest = rows % folds;
    block = min_i(columns, 256);
    chunk = max_i(64, 8192 / block);
    chunks = ceil_div(folded_rows, chunk);
  }
  std::int64_t chunk_rows(std::int64_t i) const { return min_i(chunk, folded_rows - i * chunk); }
  std::int64_t first_of(std::int64_t i) const { return i * chunk * columns; }
  std::int64_t first_rest() const { return folded_rows * columns; }
};

// The coefficients value(c) of the channels, repeated for each fold.
template <class Value>
LAMELLA_INLINE void fill_columns(const ChannelRows& layout, float* out, const Value& value) {
  for (std::int64_t c = 0; c < layout.channels; ++c) out[c] = static_cast<float>(value(c));
  for (std::int64_t j = layout.channels; j < layout.columns; ++j) out[j] = out[j - layout.channels];
}

// The channels [begin, end).
struct Channels {
  std::int64_t begin;
  std::int64_t end;
};

// out[c] = the sum over chunks and folds of term(i, column, c) and over the rest of
// rest_term(element, c), all in order and in double.
template <class Term, class RestTerm>
LAMELLA_INLINE void combine_chunks(const ChannelRows& layout, Channels of, double* out,
                                   const Term& term, const RestTerm& rest_term) {
  for (std::int64_t c = of.begin; c < of.end; ++c) out[c] = 0.0;
  for (std::int64_t i = 0; i < layout.chunks; ++i) {
    for (std::int64_t f = 0; f < layout.folds; ++f) {
      for (std::int64_t c = of.begin; c < of.end; ++c) {
        out[c] += term(i, f * layout.channels + c, c);
      }
    }
  }
  for (std::int64_t r = 0; r < layout.rest; ++r) {
    for (std::int64_t c = of.begin; c < of.end; ++c) {
      out[c] += rest_term(layout.first_rest() + r * layout.channels + c, c);
    }
  }
}

// Of each chunk and column: a center near the mean, and the sums of the distances from it and of
// their squares.
struct ChunkMoments {
  float* center;  // (chunks, columns), as the others
  float* sum;
  float* squares;
};

// The columns [begin, end) of chunk i.
LAMELLA_INLINE void chunk_moments(const ChannelRows& layout, const float* x, std::int64_t i,
                                  std::int64_t begin, std::int64_t end,
                                  const ChunkMoments& moments) {
  const std::int64_t rows = layout.chunk_rows(i);
  const float* const first = x + layout.first_of(i);
  float* center = moments.center + i * layout.columns;
  column_sums(first + begin, rows, end - begin, layout.columns, center + begin);
  const Float share = set(1.0f / static_cast<float>(rows));
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
    for (std::int64_t r = 0; r < rows; ++r) {
      for (int v = 0; v < count; ++v) {
        const Float d = at.get(first + r * layout.columns + v * Float::width) - middle[v];
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
}

// out[c] = sum over rows of x.
LAMELLA_INLINE void sum_channels(const ChannelRows& layout, const float* x,
                                 const ChunkMoments& moments, Channels of, double* out) {
  combine_chunks(
      layout, of, out,
      [&](std::int64_t i, std::int64_t column, std::int64_t) {
        const std::int64_t k = i * layout.columns + column;
        const double n = static_cast<double>(layout.chunk_rows(i));
        const float center = moments.center[k];
        // The distances from an infinite center are NaN, but the mean is infinite.
        const float sum = center - center == 0.0f ? moments.sum[k] : 0.0f;
        return n * static_cast<double>(center) + static_cast<double>(sum);
      },
      [&](std::int64_t element, std::int64_t) { return static_cast<double>(x[element]); });
}

// out[c] = sum over rows of (x - mean(c))^2.
template <class Mean>
LAMELLA_INLINE void sum_squares(const ChannelRows& layout, const float* x,
                                const ChunkMoments& moments, Channels of, const Mean& mean,
                                double* out) {
  combine_chunks(
      layout, of, out,
      // sum (x - mean)^2 = sum ((x - center) + (center - mean))^2
      [&](std::int64_t i, std::int64_t column, std::int64_t c) {
        const std::int64_t k = i * layout.columns + column;
        const double n = static_cast<double>(layout.chunk_rows(i));
        const double shift = static_cast<double>(moments.center[k]) - mean(c);
        return static_cast<double>(moments.squares[k]) +
               shift * (2.0 * static_cast<double>(moments.sum[k]) + n * shift);
      },
      [&](std::int64_t element, std::int64_t c) {
        const double d = static_cast<double>(x[element]) - mean(c);
        return d * d;
      });
}

// Of each chunk and column: the sums of dy and of dy (x - center).
struct ChunkGradients {
  float* plain;  // (chunks, columns), as the other
  float* centered;
};

// The columns [begin, end) of chunk i. center (columns).
LAMELLA_INLINE void chunk_gradients(const ChannelRows& layout, const float* dy, const float* x,
                                    const float* center, std::int64_t i, std::int64_t begin,
                                    std::int64_t end, const ChunkGradients& gradients) {
  const std::int64_t rows = layout.chunk_rows(i);
  const std::int64_t first = layout.first_of(i);
  for_column_groups(begin, end, [&](auto vectors, auto at) {
    constexpr int count = decltype(vectors)::count;
    Float middle[count], plain[count], centered[count];
    for (int v = 0; v < count; ++v) {
      middle[v] = at.get(center + v * Float::width);
      plain[v] = zero();
      centered[v] = zero();
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      for (int v = 0; v < count; ++v) {
        const std::int64_t k = first + r * layout.columns + v * Float::width;
        const Float gradient = at.get(dy + k);
        plain[v] = plain[v] + gradient;
        centered[v] = fma(gradient, at.get(x + k) - middle[v], centered[v]);
      }
    }
    for (int v = 0; v < count; ++v) {
      const std::int64_t k = i * layout.columns + v * Float::width;
      at.put(gradients.plain + k, plain[v]);
      at.put(gradients.centered + k, centered[v]);
    }
  });
}

// plain[c] = sum over rows of dy, centered[c] = sum of dy (x - center[c]).
LAMELLA_INLINE void sum_gradients(const ChannelRows& layout, const float* dy, const float* x,
                                  const float* center, const ChunkGradients& gradients, Channels of,
                                  double* plain, double* centered) {
  combine_chunks(
      layout, of, plain,
      [&](std::int64_t i, std::int64_t column, std::int64_t) {
        return static_cast<double>(gradients.plain[i * layout.columns + column]);
      },
      [&](std::int64_t k, std::int64_t) { return static_cast<double>(dy[k]); });
  combine_chunks(
      layout, of, centered,
      [&](std::int64_t i, std::int64_t column, std::int64_t) {
        return static_cast<double>(gradients.centered[i * layout.columns + column]);
      },
      [&](std::int64_t k, std::int64_t c) {
        return static_cast<double>(dy[k]) *
               (static_cast<double>(x[k]) - static_cast<double>(center[c]));
      });
}

}  // namespace lamella::LAMELLA_ISA
