// The products of attention on blocks of keys and rows, and how their operands lie:
//
//   turned    [panel][term][panel columns]   keys or values with keys as columns: s and dw
//   straight  [key or row][padded size]      values, keys, queries, dy as rows: y and the gradients
//
// Blocks are copies: heads lie side by side in memory, so rows of one head are far apart and fall
// on few sets of the cache.
#pragma once

#include "core/memory_pool.h"
#include "gemm/gemm.h"
#include "gemm/tile.h"
#include "ops/attention/attention_scores.h"

namespace lamella::LAMELLA_ISA {

constexpr std::int64_t score_panel = (wide_tile_rows < 4 ? 2 : max_tile_vectors) * Float::width;

// A matrix of rows in memory of its own.
struct Block {
  float* data;
  std::int64_t stride;
  float* row(std::int64_t i) const { return data + i * stride; }
};

// Rows of `size` floats, `stride` apart, with zeros up to whole vectors. Whether all are finite.
inline bool copy_rows(const float* from, std::int64_t stride, std::int64_t rows, std::int64_t size,
                      const Block& to) {
  const std::int64_t whole = size / Float::width * Float::width;
  Float test = zero();
  for (std::int64_t i = 0; i < rows; ++i, from += stride) {
    float* const row = to.row(i);
    for (std::int64_t e = 0; e < whole; e += Float::width) {
      const Float v = load(from + e);
      test = fma(v, zero(), test);
      store(row + e, v);
    }
    if (whole == size) continue;
    const Float v = load_n(from + whole, size - whole);
    test = fma(v, zero(), test);
    store(row + whole, v);
  }
  return sum(test) == 0.0f;
}

// Turned panels of `rows` rows. Columns up to the end of the last panel are zeros.
inline void turn_rows(const float* from, std::int64_t stride, std::int64_t rows, std::int64_t size,
                      float* to) {
  for (std::int64_t j = 0; j < rows; j += score_panel, to += size * score_panel) {
    pack_panel({from, 1, stride}, size, j, min_i(score_panel, rows - j), score_panel, to);
  }
}

// Calls run(tile, rows, vectors) for tiles of `rows` rows and `columns` columns of whole vectors.
template <class Run>
LAMELLA_INLINE void for_each_tile(std::int64_t rows, std::int64_t columns, std::int64_t panel,
                                  const Run& run) {
  for (std::int64_t j = 0; j < columns; j += panel) {
    const int vectors = tile_vectors(min_i(panel, columns - j));
    const std::int64_t full = full_tile_rows(vectors);
    const std::int64_t height = ceil_div(rows, ceil_div(rows, full));
    for (std::int64_t r = 0; r < rows; r += height) run(r, min_i(height, rows - r), j, vectors);
  }
}

// c[r][j] = a[r] . turned column j, for the columns of whole vectors from columns.begin on, a
// multiple of score_panel.
inline void multiply_turned(const float* const* a, std::int64_t rows, std::int64_t size,
                            const float* turned, const Span& columns, const Block& c) {
  const Segment terms = {0, 0, size};
  Tile t = {};
  t.segments = &terms;
  t.segment_count = 1;
  t.b_stride = score_panel;
  float* to[max_tile_rows];
  t.c = to;
  for_each_tile(rows, whole_vectors(columns.end) - columns.begin, score_panel,
                [&](std::int64_t r, std::int64_t height, std::int64_t j, int vectors) {
                  const std::int64_t column = columns.begin + j;
                  for (std::int64_t i = 0; i < height; ++i) to[i] = c.row(r + i) + column;
                  t.a = a + r;
                  t.b = turned + column * size;
                  t.columns = vectors * Float::width;
                  tile_kernel(Form::rows, height, vectors)(t);
                });
}

// c[r] += sum of a[r][k] b[k] over the columns k, or = without `accumulate`.
inline void add_product(const Block& a, std::int64_t rows, const Span& terms, const Block& b,
                        std::int64_t columns, bool accumulate, float* const* c) {
  const Segment segment = {terms.begin, terms.begin * b.stride, terms.end - terms.begin};
  Tile t = {};
  t.segments = &segment;
  t.segment_count = 1;
  t.b_stride = b.stride;
  t.accumulate = accumulate;
  const float* from[max_tile_rows];
  float* to[max_tile_rows];
  t.a = from;
  t.c = to;
  for_each_tile(rows, whole_vectors(columns), score_panel,
                [&](std::int64_t r, std::int64_t height, std::int64_t j, int vectors) {
                  for (std::int64_t i = 0; i < height; ++i) {
                    from[i] = a.row(r + i);
                    to[i] = c[r + i] + j;
                  }
                  t.b = b.data + j;
                  t.columns = min_i(vectors * Float::width, columns - j);
                  tile_kernel(Form::rows, height, vectors)(t);
                });
}

// c[k] += sum of a[r][k] b[r] over the rows r, for the columns k of a.
inline void add_transposed_product(const Block& a, std::int64_t rows, const Span& columns,
                                   const Block& b, std::int64_t size, const Block& c) {
  const Segment segment = {0, 0, rows};
  Tile t = {};
  t.segments = &segment;
  t.segment_count = 1;
  t.a_step = a.stride;
  t.b_stride = b.stride;
  t.accumulate = true;
  const float* from = nullptr;
  float* to[max_tile_rows];
  t.a = &from;
  t.c = to;
  for_each_tile(columns.end - columns.begin, whole_vectors(size), score_panel,
                [&](std::int64_t r, std::int64_t height, std::int64_t j, int vectors) {
                  const std::int64_t column = columns.begin + r;
                  from = a.data + column;
                  for (std::int64_t i = 0; i < height; ++i) to[i] = c.row(column + i) + j;
                  t.b = b.data + j;
                  t.columns = vectors * Float::width;
                  tile_kernel(Form::columns, height, vectors)(t);
                });
}

// c += a b over `size` columns, if a is not 0.
LAMELLA_INLINE void add_unless_zero(float a, const float* b, std::int64_t size, float* c) {
  if (a == 0.0f) return;
  for (std::int64_t e = 0; e < size; e += Float::width) {
    const std::int64_t n = min_i(Float::width, size - e);
    store_n(c + e, fma(set(a), load_n(b + e, n), load_n(c + e, n)), n);
  }
}

// c[r] += the same for a b that is not finite: an element of a that is 0 meets nothing of it.
inline void add_nonzero_product(const Block& a, std::int64_t rows, const Span& terms,
                                const Block& b, std::int64_t columns, float* const* c) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t k = terms.begin; k < terms.end; ++k) {
      add_unless_zero(a.row(r)[k], b.row(k), columns, c[r]);
    }
  }
}

inline void add_nonzero_transposed_product(const Block& a, std::int64_t rows, const Span& columns,
                                           const Block& b, std::int64_t size, const Block& c) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t k = columns.begin; k < columns.end; ++k) {
      add_unless_zero(a.row(r)[k], b.row(r), size, c.row(k));
    }
  }
}

// For each key of a block the sum of a[r][key] b[r] over rows: the gradients of keys and values.
// Where b's rows fill half a vector or less the sums lie turned, [element][key], so that vectors
// are full.
class KeySums {
 public:
  static std::int64_t floats(std::int64_t keys, std::int64_t size) {
    return keys * whole_vectors(size);
  }

  KeySums(float* data, std::int64_t keys, std::int64_t size)
      : size_(size),
        keys_(keys),
        turned_(2 * size <= Float::width),
        sums_{data, turned_ ? keys : whole_vectors(size)} {}

  void clear() const {
    for (std::int64_t i = 0; i < floats(keys_, size_); i += Float::width) {
      store(sums_.data + i, zero());
    }
  }

  void add(const Block& a, std::int64_t rows, const Span& columns, const Block& b,
           bool finite) const {
    if (!turned_) {
      const auto sum = finite ? add_transposed_product : add_nonzero_transposed_product;
      return sum(a, rows, columns, b, whole_vectors(size_), sums_);
    }
    if (finite) {
      return add_transposed_product(b, rows, {0, size_}, {a.data + columns.begin, a.stride},
                                    columns.end - columns.begin,
                                    {sums_.data + columns.begin, sums_.stride});
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t k = columns.begin; k < columns.end; k += Float::width) {
        const std::int64_t n = min_i(Float::width, columns.end - k);
        const Float weight = load_n(a.row(r) + k, n);
        for (std::int64_t e = 0; e < size_; ++e) {
          float* const to = sums_.row(e) + k;
          const Float before = load_n(to, n);
          const Float after = fma(weight, set(b.row(r)[e]), before);
          store_n(to, select(equal(weight, zero()), before, after), n);
        }
      }
    }
  }

  // to[key] = factor * sums, for `count` keys `stride` apart.
  void put(std::int64_t count, float factor, float* to, std::int64_t stride) const {
    for (std::int64_t key = 0; key < count; ++key, to += stride) {
      if (turned_) {
        for (std::int64_t e = 0; e < size_; ++e) to[e] = factor * sums_.row(e)[key];
        continue;
      }
      for (std::int64_t e = 0; e < size_; e += Float::width) {
        store_n(to + e, load(sums_.row(key) + e) * set(factor), min_i(Float::width, size_ - e));
      }
    }
  }

 private:
  std::int64_t size_, keys_;
  bool turned_;
  Block sums_;
};

}  // namespace lamella::LAMELLA_ISA
