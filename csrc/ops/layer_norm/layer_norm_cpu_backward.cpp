// Backward pass of layer_norm and rms_norm. A few rows at a time are read twice: for the two sums
// over each row, which also gives their terms of dgamma and dbeta; and for dx, from L1 or L2, while
// the rows to come are prefetched. gamma and the sums of dgamma and dbeta are read once for all of
// them.
//
// dgamma and dbeta: each chunk of rows has sums of its own, and these are added in order. Where the
// chunks end depends on the shape alone.
#include "core/cache.h"
#include "ops/layer_norm/layer_norm_row.h"
#include "simd/parallel_rows.h"

namespace lamella::LAMELLA_ISA {
namespace {

using layer_norm::Backward;

// Rows that are worked on together: there are registers for their statistics and sums.
constexpr int block = Float::registers == 32 ? 4 : 2;

// What is wanted of a backward pass, as template arguments.
template <bool centered_, bool parameters_, bool input_>
struct Wanted {
  static constexpr bool centered = centered_;      // layer_norm
  static constexpr bool parameters = parameters_;  // dgamma or dbeta
  static constexpr bool input = input_;            // dx or dresidual
};

// Sums over a row of g and of g n.
struct GradientSums {
  float plain;
  float normal;
};

// Sums of dgamma and dbeta over the rows of a chunk; dbeta of layer_norm only.
struct ParameterSums {
  float* dgamma;  // (size)
  float* dbeta;   // (size)
};

// The columns [begin, end) of `rows` rows, the first of which is `first`: adds to `sums`, and gives
// each row's sums of g and g n.
template <class Want, int rows>
LAMELLA_INLINE void add_rows(const Backward& p, std::int64_t first, std::int64_t begin,
                             std::int64_t end, const float* gamma, const ParameterSums& sums,
                             GradientSums* row_sums) {
  const std::int64_t size = p.shape.size;
  const float* const s = p.s + first * size;
  const float* const dy = p.dy + first * size;
  RowNormal normal[rows];
  Float plain[rows], product[rows];
  for (int r = 0; r < rows; ++r) {
    normal[r] = row_normal<Want::centered>(p.saved, first + r);
    plain[r] = product[r] = zero();
  }
  for_vectors(begin, end, [&](auto at) {
    Float dgamma = zero(), dbeta = zero(), factor = zero();
    if constexpr (Want::parameters) {
      dgamma = at.get(sums.dgamma);
      if constexpr (Want::centered) dbeta = at.get(sums.dbeta);
    }
    if constexpr (Want::input) factor = at.get(gamma);
    for (int r = 0; r < rows; ++r) {
      const Float gradient = at.get(dy + r * size);
      const Float n = normal[r].template of<Want::centered>(at.get(s + r * size));
      if constexpr (Want::parameters) {
        dgamma = fma(gradient, n, dgamma);
        if constexpr (Want::centered) dbeta = dbeta + gradient;
      }
      if constexpr (Want::input) {
        const Float g = gradient * factor;
        if constexpr (Want::centered) plain[r] = plain[r] + g;
        product[r] = fma(g, n, product[r]);
      }
    }
    if constexpr (Want::parameters) {
      at.put(sums.dgamma, dgamma);
      if constexpr (Want::centered) at.put(sums.dbeta, dbeta);
    }
  });
  if constexpr (Want::input) {
    for (int r = 0; r < rows; ++r) row_sums[r] = {sum(plain[r]), sum(product[r])};
  }
}

// dx = g scale - (s - center) slope - shift.
struct RowGradient {
  Float scale;
  Float center;
  Float slope;
  Float shift;
};

template <bool centered>
LAMELLA_INLINE RowGradient row_gradient(const layer_norm::Statistics& saved, std::int64_t row,
                                        float mean, float mean_normal) {
  const float scale = saved.scale[row];
  const float slope = scale * scale * mean_normal;
  if constexpr (!centered) return {set(scale), zero(), set(slope), zero()};
  const float shift = scale * (mean + saved.shift[row] * mean_normal);
  return {set(scale), set(saved.center[row]), set(slope), set(shift)};
}

// dx and dresidual of the columns [begin, end) of `rows` rows, the first of which is `first`. The
// next rows are prefetched to L1 if they are `short_rows`, otherwise to L2.
template <bool centered, bool streams, bool short_rows, int rows>
LAMELLA_INLINE void put_gradients(const Backward& p, std::int64_t first, std::int64_t begin,
                                  std::int64_t end, const float* gamma, const RowGradient* row) {
  const std::int64_t size = p.shape.size;
  const std::int64_t ahead = first + 2 * rows <= p.shape.rows ? rows * size : 0;
  const bool only_dx = p.ds == nullptr && p.dresidual == nullptr;
  for_vectors(begin, end, [&](auto at) {
    const Float factor = at.get(gamma);
    for (int r = 0; r < rows; ++r) {
      const std::int64_t start = (first + r) * size;
      __builtin_prefetch(p.dy + start + at.i + ahead, 0, short_rows ? 3 : 2);
      __builtin_prefetch(p.s + start + at.i + ahead, 0, short_rows ? 3 : 2);
      const Float g = at.get(p.dy + start) * factor;
      const Float s = at.get(p.s + start);
      Float dx = centered ? fma(g, row[r].scale,
                                fnma(s - row[r].center, row[r].slope, zero() - row[r].shift))
                          : fnma(s, row[r].slope, g * row[r].scale);
      if (only_dx) {
        put_result<streams>(at, p.dx + start, dx);
        continue;
      }
      if (p.ds != nullptr) dx = dx + at.get(p.ds + start);
      if (p.dx != nullptr) put_result<streams>(at, p.dx + start, dx);
      if (p.dresidual != nullptr) put_result<streams>(at, p.dresidual + start, dx);
    }
  });
}

// Not inlined: its callers share it.
template <class Want, bool streams, bool short_rows, int rows>
[[gnu::noinline]] void backward_rows(const Backward& p, std::int64_t first, const float* gamma,
                                     const ParameterSums& sums) {
  const std::int64_t size = p.shape.size;
  GradientSums row_sums[rows];
  add_rows<Want, rows>(p, first, 0, size, gamma, sums, row_sums);
  if constexpr (Want::input) {
    const float share = 1.0f / static_cast<float>(size);
    RowGradient row[rows];
    for (int r = 0; r < rows; ++r) {
      row[r] = row_gradient<Want::centered>(p.saved, first + r, row_sums[r].plain * share,
                                            row_sums[r].normal * share);
    }
    put_gradients<Want::centered, streams, short_rows, rows>(p, first, 0, size, gamma, row);
  }
}

// out[c] = the sum over chunks of sums[i, c], in order and in double.
void add_chunks(const float* sums, std::int64_t chunks, std::int64_t size, float* out) {
  constexpr std::int64_t columns = 64;
  const auto add_group = [&](std::int64_t begin) {
    const std::int64_t n = min_i(columns, size - begin);
    double total[columns] = {};
    for (std::int64_t i = 0; i < chunks; ++i) {
      for (std::int64_t c = 0; c < n; ++c) {
        total[c] += static_cast<double>(sums[i * size + begin + c]);
      }
    }
    for (std::int64_t c = 0; c < n; ++c) out[begin + c] = static_cast<float>(total[c]);
  };
  parallel_rows(1, ceil_div(size, columns), (chunks + 1) * columns,
                [&](std::int64_t, std::int64_t first, std::int64_t last) {
                  for (std::int64_t i = first; i < last; ++i) add_group(i * columns);
                });
}

// The sums of all chunks: (chunks, size) of dgamma, then of dbeta.
template <class Want>
class ChunkSums {
 public:
  LAMELLA_INLINE ChunkSums(const layer_norm::Rows& shape, std::int64_t chunks)
      : size_(shape.size),
        chunks_(chunks),
        scratch_(shape.op, Want::parameters ? chunks * shape.size * (Want::centered ? 2 : 1) : 0) {}

  // Those of chunk i.
  LAMELLA_INLINE ParameterSums of(std::int64_t i) const {
    if constexpr (!Want::parameters) return {nullptr, nullptr};
    return {scratch_.get() + i * size_,
            Want::centered ? scratch_.get() + (chunks_ + i) * size_ : nullptr};
  }

  LAMELLA_INLINE static void clear(const ParameterSums& sums, std::int64_t begin,
                                   std::int64_t end) {
    if constexpr (Want::parameters) {
      const auto bytes = static_cast<std::size_t>(end - begin) * sizeof(float);
      std::memset(sums.dgamma + begin, 0, bytes);
      if constexpr (Want::centered) std::memset(sums.dbeta + begin, 0, bytes);
    }
  }

  LAMELLA_INLINE void add_up(float* dgamma, float* dbeta) const {
    if constexpr (Want::parameters) {
      if (dgamma != nullptr) add_chunks(scratch_.get(), chunks_, size_, dgamma);
      if (dbeta != nullptr) add_chunks(scratch_.get() + chunks_ * size_, chunks_, size_, dbeta);
    }
  }

 private:
  std::int64_t size_;
  std::int64_t chunks_;
  Scratch<float> scratch_;
};

// Rows of a chunk: its sums are less than a 32nd of what it reads.
LAMELLA_INLINE std::int64_t chunk_rows(std::int64_t size) {
  return max_i(64, 65536 / size);
}

template <class Want, bool streams, bool short_rows>
void backward_chunks(const Backward& p, const float* gamma) {
  const std::int64_t size = p.shape.size;
  const std::int64_t rows = chunk_rows(size);
  const std::int64_t chunks = ceil_div(p.shape.rows, rows);
  const ChunkSums<Want> sums(p.shape, chunks);
  parallel_for(chunks, [&](std::int64_t i) {
    const ParameterSums own = sums.of(i);
    sums.clear(own, 0, size);
    const std::int64_t last = min_i(p.shape.rows, (i + 1) * rows);
    std::int64_t row = i * rows;
    for (; row + block <= last; row += block) {
      backward_rows<Want, streams, short_rows, block>(p, row, gamma, own);
    }
    for (; row < last; ++row) backward_rows<Want, streams, short_rows, 1>(p, row, gamma, own);
    if (streams) stream_fence();
  });
  sums.add_up(p.dgamma, p.dbeta);
}

template <class Want, bool streams>
void backward_chunks(const Backward& p, const float* gamma) {
  // 512: a block, the next one and the results take 40 KB, which stay in L1.
  p.shape.size <= 512 ? backward_chunks<Want, streams, true>(p, gamma)
                      : backward_chunks<Want, streams, false>(p, gamma);
}

// One row after the other on all threads.
template <class Want>
void backward_shared_rows(const Backward& p, const float* gamma) {
  const std::int64_t size = p.shape.size;
  const std::int64_t pieces = ceil_div(size, row_piece);
  const ChunkSums<Want> sums(p.shape, 1);
  const ParameterSums own = sums.of(0);
  const Scratch<GradientSums> piece_sums(p.shape.op, pieces);
  const auto each_piece = [&](const auto& body) {
    parallel_for(pieces,
                 [&](std::int64_t i) { body(i, i * row_piece, min_i(size, (i + 1) * row_piece)); });
  };
  each_piece(
      [&](std::int64_t, std::int64_t begin, std::int64_t end) { sums.clear(own, begin, end); });
  for (std::int64_t row = 0; row < p.shape.rows; ++row) {
    each_piece([&](std::int64_t i, std::int64_t begin, std::int64_t end) {
      add_rows<Want, 1>(p, row, begin, end, gamma, own, piece_sums.get() + i);
    });
    if constexpr (Want::input) {
      double plain = 0.0, product = 0.0;
      for (std::int64_t i = 0; i < pieces; ++i) {
        plain += static_cast<double>(piece_sums.get()[i].plain);
        product += static_cast<double>(piece_sums.get()[i].normal);
      }
      const double share = 1.0 / static_cast<double>(size);
      const RowGradient found = row_gradient<Want::centered>(
          p.saved, row, static_cast<float>(plain * share), static_cast<float>(product * share));
      each_piece([&](std::int64_t, std::int64_t begin, std::int64_t end) {
        put_gradients<Want::centered, false, false, 1>(p, row, begin, end, gamma, &found);
      });
    }
  }
  sums.add_up(p.dgamma, p.dbeta);
}

template <class Want>
void backward_of(const Backward& p) {
  const layer_norm::Rows& shape = p.shape;
  const ColumnValues gamma(shape, p.gamma, 1.0f);
  if (rows_are_shared(shape)) return backward_shared_rows<Want>(p, gamma.get());
  const auto streamable = [&](const float* out) {
    return out == nullptr || can_stream(out, shape.size);
  };
  const std::int64_t bytes = shape.rows * shape.size * static_cast<std::int64_t>(sizeof(float));
  if constexpr (Want::input) {
    if (outgrows_cache(bytes) && streamable(p.dx) && streamable(p.dresidual)) {
      return backward_chunks<Want, true>(p, gamma.get());
    }
  }
  backward_chunks<Want, false>(p, gamma.get());
}

template <bool centered>
void backward_choice(const Backward& p) {
  const bool parameters = p.dgamma != nullptr || p.dbeta != nullptr;
  const bool input = p.dx != nullptr || p.dresidual != nullptr;
  if (parameters && input) return backward_of<Wanted<centered, true, true>>(p);
  if (parameters) return backward_of<Wanted<centered, true, false>>(p);
  if (input) return backward_of<Wanted<centered, false, true>>(p);
}

}  // namespace

void layer_norm_backward(bool centered, const Backward& p) {
  centered ? backward_choice<true>(p) : backward_choice<false>(p);
}

}  // namespace lamella::LAMELLA_ISA
