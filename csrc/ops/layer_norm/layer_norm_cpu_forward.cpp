// Forward pass of layer_norm and rms_norm. Rows of up to four vectors stay in registers. Longer
// ones come from memory once and stay in L1 for the three passes (sum, squares of the distances
// from the center, result); rms_norm has two. A pass ends in a chain of operations that wait for
// one another, and computes while memory has nothing to do. So a few rows take turns, the chain of
// one beside the next one's pass, and meanwhile the rows after them are prefetched.
#include "core/cache.h"
#include "ops/layer_norm/layer_norm_row.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {
namespace {

using layer_norm::Forward;

constexpr int register_vectors = 4;
constexpr int turns = 4;
constexpr double smallest_normal = 0x1p-126;

// What the rows of one call have in common.
struct Common {
  const float* gamma;
  const float* beta;
  float share;  // of an element in a mean
  float epsilon;
};

// A row, or a piece of one.
struct Piece {
  std::int64_t size;
  const float* x;
  const float* residual;
  float* s;            // where x + residual is kept for the later passes
  std::int64_t ahead;  // floats from here to what is prefetched

  template <bool adds>
  LAMELLA_INLINE const float* sum() const {
    return adds ? s : x;
  }
};

// The vector `at` of s, which is computed and kept where there is a residual.
template <bool adds, class Place>
LAMELLA_INLINE Float first_read(const Piece& piece, Place at) {
  Float v = at.get(piece.x);
  if constexpr (adds) {
    v = v + at.get(piece.residual);
    at.put(piece.s, v);
  }
  return v;
}

// The line of the vector `at` in the row to come.
template <bool adds, class Place>
LAMELLA_INLINE void prefetch_ahead(const Piece& piece, Place at) {
  __builtin_prefetch(piece.x + at.i + piece.ahead);
  if constexpr (adds) __builtin_prefetch(piece.residual + at.i + piece.ahead);
}

template <bool adds>
LAMELLA_INLINE float plain_sum(const Piece& piece) {
  const auto sums = row_sums<1, turns>(
      piece.size, [&](auto at, Float* s) { s[0] = s[0] + first_read<adds>(piece, at); });
  return sums.sum[0];
}

// Sums of the distances from the center and of their squares.
struct Deviations {
  float offset;
  float squares;
};

template <bool adds>
LAMELLA_INLINE Deviations deviations(const Piece& piece, float center) {
  const Float middle = set(center);
  const auto sums = row_sums<2, turns>(piece.size, [&](auto at, Float* s) {
    const Float d = inside_or(at.get(piece.sum<adds>()) - middle, at, zero());
    prefetch_ahead<adds>(piece, at);
    s[0] = s[0] + d;
    s[1] = fma(d, d, s[1]);
  });
  return {sums.sum[0], sums.sum[1]};
}

// rms_norm's center is 0.
template <bool adds>
LAMELLA_INLINE Deviations squares(const Piece& piece) {
  const auto sums = row_sums<1, turns>(piece.size, [&](auto at, Float* s) {
    const Float v = first_read<adds>(piece, at);
    prefetch_ahead<adds>(piece, at);
    s[0] = fma(v, v, s[0]);
  });
  return {0.0f, sums.sum[0]};
}

// The statistics of row `row`, saved if there will be a backward pass.
template <bool centered>
LAMELLA_INLINE RowNormal finish(const Forward& p, const Common& common, std::int64_t row,
                                float center, const Deviations& sums) {
  const float offset = sums.offset * common.share;
  const float variance = sums.squares * common.share - offset * offset;
  // Rounding may leave a tiny negative variance where all elements are equal.
  const float scale = 1.0f / __builtin_sqrtf((variance < 0.0f ? 0.0f : variance) + common.epsilon);
  const float shift = -offset * scale;
  if (p.saved.scale != nullptr) {
    p.saved.scale[row] = scale;
    if constexpr (centered) {
      p.saved.center[row] = center;
      p.saved.shift[row] = shift;
    }
  }
  return {set(center), set(scale), set(shift)};
}

// The last pass over rows that lie `stride` floats apart: gamma and beta are read once for all of
// them. With `streams`, piece.s is a buffer and s is written here.
template <bool centered, bool adds, bool streams, int rows>
LAMELLA_INLINE void result(const Piece& piece, std::int64_t stride, const RowNormal* normal,
                           const float* gamma, const float* beta, float* y, float* s) {
  for_vectors<(rows == 1 ? turns : 1)>(0, piece.size, [&](auto at) {
    const Float factor = at.get(gamma);
    const Float term = centered ? at.get(beta) : zero();
    for (int r = 0; r < rows; ++r) {
      const Float v = at.get(piece.sum<adds>() + r * stride);
      const Float n = normal[r].of<centered>(v);
      put_result<streams>(at, y + r * stride, centered ? fma(n, factor, term) : n * factor);
      if constexpr (adds && streams) put_result<streams>(at, s + r * stride, v);
    }
  });
}

template <bool adds>
LAMELLA_INLINE Piece piece_of(const Forward& p, std::int64_t first, std::int64_t size) {
  if constexpr (adds) return {size, p.x + first, p.residual + first, p.s + first, 0};
  return {size, p.x + first, nullptr, nullptr, 0};
}

// Not inlined: its callers share it.
template <bool centered, bool adds, bool streams, int rows>
[[gnu::noinline]] void forward_block(const Forward& p, const Common& common, std::int64_t row,
                                     float* buffer) {
  const std::int64_t size = p.shape.size;
  const auto piece = [&](int r) {
    Piece found = piece_of<adds>(p, (row + r) * size, size);
    if (adds && streams) found.s = buffer + r * size;
    if (row + r + rows < p.shape.rows) found.ahead = rows * size;
    return found;
  };
  float centers[rows] = {};
  if constexpr (centered) {
    for (int r = 0; r < rows; ++r) centers[r] = plain_sum<adds>(piece(r)) * common.share;
  }
  RowNormal normal[rows];
  for (int r = 0; r < rows; ++r) {
    const Deviations sums =
        centered ? deviations<adds>(piece(r), centers[r]) : squares<adds>(piece(r));
    normal[r] = finish<centered>(p, common, row + r, centers[r], sums);
  }
  const std::int64_t first = row * size;
  result<centered, adds, streams, rows>(piece(0), size, normal, common.gamma, common.beta,
                                        p.y + first, adds ? p.s + first : nullptr);
}

// body(first row, last row, slot) for pieces of about 64 KB of x.
template <class Body>
LAMELLA_INLINE void each_task(const layer_norm::Rows& shape, bool streams, const Body& body) {
  const std::int64_t rows = max_i(1, 16384 / shape.size);
  parallel_for_slots(ceil_div(shape.rows, rows), num_threads(), [&](std::int64_t task, int slot) {
    body(task * rows, min_i(shape.rows, (task + 1) * rows), slot);
    if (streams) stream_fence();
  });
}

// A row of `vectors` vectors, the last one perhaps a partial one, in registers.
template <bool centered, int vectors>
LAMELLA_INLINE void forward_short_row(const Forward& p, const Common& common, std::int64_t row,
                                      bool streams) {
  constexpr int last = vectors - 1;
  const std::int64_t first = row * p.shape.size;
  const std::int64_t rest = p.shape.size - last * Float::width;
  const auto each_vector = [&](const auto& body) {
    for (int i = 0; i < last; ++i) body(i, WholeVector{i * Float::width});
    if (rest == Float::width) return body(last, WholeVector{last * Float::width});
    body(last, PartOfVector{last * Float::width, rest});
  };
  const auto put = [&](auto at, float* to, Float value) {
    streams ? put_result<true>(at, to, value) : put_result<false>(at, to, value);
  };
  Float v[vectors];
  each_vector([&](int i, auto at) { v[i] = at.get(p.x + first); });
  if (p.residual != nullptr) {
    each_vector([&](int i, auto at) {
      v[i] = v[i] + at.get(p.residual + first);
      put(at, p.s + first, v[i]);
    });
  }
  float center = 0.0f;
  Float offset = zero(), square = zero();
  if constexpr (centered) {
    Float total = v[0];
    for (int i = 1; i < vectors; ++i) total = total + v[i];
    center = sum(total) * common.share;
    each_vector([&](int i, auto at) { v[i] = inside_or(v[i] - set(center), at, zero()); });
    for (int i = 0; i < vectors; ++i) offset = offset + v[i];
  }
  for (int i = 0; i < vectors; ++i) square = fma(v[i], v[i], square);
  const Deviations sums = {centered ? sum(offset) : 0.0f, sum(square)};
  const RowNormal normal = finish<centered>(p, common, row, center, sums);
  each_vector([&](int i, auto at) {
    const Float gamma = at.get(common.gamma);
    if constexpr (centered) {
      const Float n = fma(v[i], normal.scale, normal.shift);
      put(at, p.y + first, fma(n, gamma, at.get(common.beta)));
    } else {
      put(at, p.y + first, v[i] * normal.scale * gamma);
    }
  });
}

template <bool centered, int vectors = register_vectors>
void forward_short_rows(const Forward& p, const Common& common, bool streams) {
  if constexpr (vectors > 1) {
    if (p.shape.size <= (vectors - 1) * Float::width) {
      return forward_short_rows<centered, vectors - 1>(p, common, streams);
    }
  }
  each_task(p.shape, streams, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t row = begin; row < end; ++row) {
      forward_short_row<centered, vectors>(p, common, row, streams);
    }
  });
}

template <bool centered, bool adds, bool streams, int rows>
void forward_rows(const Forward& p, const Common& common) {
  const std::int64_t size = p.shape.size;
  const std::int64_t buffer = adds && streams ? rows * size : 0;
  const Scratch<float> buffers(p.shape.op, num_threads() * buffer);
  each_task(p.shape, streams, [&](std::int64_t row, std::int64_t end, int slot) {
    float* const own = buffers.get() + slot * buffer;
    for (; row + rows <= end; row += rows) {
      forward_block<centered, adds, streams, rows>(p, common, row, own);
    }
    for (; row < end; ++row) forward_block<centered, adds, streams, 1>(p, common, row, own);
  });
}

// As many rows take turns as stay in L1, with their results and the rows to come.
template <bool centered, bool adds, bool streams>
void forward_rows(const Forward& p, const Common& common) {
  if (p.shape.size <= 768) return forward_rows<centered, adds, streams, 4>(p, common);
  if (p.shape.size <= 2048) return forward_rows<centered, adds, streams, 2>(p, common);
  forward_rows<centered, adds, streams, 1>(p, common);
}

// One row after the other on all threads. Sums of pieces are added in order and in double.
template <bool centered, bool adds>
void forward_shared_rows(const Forward& p, const Common& common) {
  const std::int64_t size = p.shape.size;
  const std::int64_t pieces = ceil_div(size, row_piece);
  const Scratch<Deviations> sums(p.shape.op, pieces);
  for (std::int64_t row = 0; row < p.shape.rows; ++row) {
    const auto each_piece = [&](const auto& body) {
      parallel_for(pieces, [&](std::int64_t i) {
        const std::int64_t begin = i * row_piece;
        body(i, begin, piece_of<adds>(p, row * size + begin, min_i(row_piece, size - begin)));
      });
    };
    const auto total = [&] {
      double offset = 0.0, square_sum = 0.0;
      for (std::int64_t i = 0; i < pieces; ++i) {
        offset += static_cast<double>(sums.get()[i].offset);
        square_sum += static_cast<double>(sums.get()[i].squares);
      }
      return Deviations{static_cast<float>(offset), static_cast<float>(square_sum)};
    };
    float center = 0.0f;
    if constexpr (centered) {
      each_piece([&](std::int64_t i, std::int64_t, const Piece& piece) {
        sums.get()[i] = {plain_sum<adds>(piece), 0.0f};
      });
      center = total().offset * common.share;
    }
    each_piece([&](std::int64_t i, std::int64_t, const Piece& piece) {
      sums.get()[i] = centered ? deviations<adds>(piece, center) : squares<adds>(piece);
    });
    const RowNormal normal = finish<centered>(p, common, row, center, total());
    each_piece([&](std::int64_t, std::int64_t begin, const Piece& piece) {
      result<centered, adds, false, 1>(piece, size, &normal, common.gamma + begin,
                                       common.beta + begin, p.y + row * size + begin, nullptr);
    });
  }
}

template <bool centered, bool adds>
void forward_of(const Forward& p) {
  const layer_norm::Rows& shape = p.shape;
  const ColumnValues gamma(shape, p.gamma, 1.0f);
  // rms_norm reads none.
  const ColumnValues beta(shape, centered ? p.beta : gamma.get(), 0.0f);
  // A smaller epsilon would be 0 as a float, and the deviation of equal elements with it.
  const double epsilon = p.epsilon < smallest_normal ? smallest_normal : p.epsilon;
  const Common common = {gamma.get(), beta.get(), 1.0f / static_cast<float>(shape.size),
                         static_cast<float>(epsilon)};
  if (rows_are_shared(shape)) return forward_shared_rows<centered, adds>(p, common);
  const std::int64_t bytes = shape.rows * shape.size * static_cast<std::int64_t>(sizeof(float));
  const bool streams = outgrows_cache(bytes) && can_stream(p.y, shape.size) &&
                       (!adds || can_stream(p.s, shape.size));
  if (shape.size <= register_vectors * Float::width) {
    return forward_short_rows<centered>(p, common, streams);
  }
  streams ? forward_rows<centered, adds, true>(p, common)
          : forward_rows<centered, adds, false>(p, common);
}

void layer_norm_forward(bool centered, const Forward& p) {
  if (centered) {
    p.residual == nullptr ? forward_of<true, false>(p) : forward_of<true, true>(p);
  } else {
    p.residual == nullptr ? forward_of<false, false>(p) : forward_of<false, true>(p);
  }
}

}  // namespace

void layer_norm_backward(bool centered, const layer_norm::Backward& p);

}  // namespace lamella::LAMELLA_ISA

namespace lamella::layer_norm::LAMELLA_ISA {

namespace kernel = lamella::LAMELLA_ISA;
extern const Kernels kernels = {kernel::layer_norm_forward, kernel::layer_norm_backward};

}  // namespace lamella::layer_norm::LAMELLA_ISA
