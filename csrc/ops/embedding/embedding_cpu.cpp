// Embedding: forward copies rows; backward adds rows, each in the order of its indices.
#include "core/cache.h"
#include "ops/embedding/embedding.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {
namespace {

using embedding::Problem;

// A task's share of the result: large enough to pay for its start, small enough for L2.
constexpr std::int64_t copied_floats = 16384;

template <bool past_caches>
LAMELLA_INLINE void copy_row(const float* from, std::int64_t columns, float* to) {
  std::int64_t c = 0;
  for (; c + Float::width <= columns; c += Float::width) {
    past_caches ? stream(to + c, load(from + c)) : store(to + c, load(from + c));
  }
  if (c < columns) store_n(to + c, load_n(from + c, columns - c), columns - c);
}

template <bool past_caches>
void copy_rows(const Problem& p, const std::int64_t* indices, const float* table, float* y) {
  const std::int64_t chunk = max_i(1, copied_floats / p.columns);
  parallel_chunks(p.count, chunk, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      copy_row<past_caches>(table + indices[i] * p.columns, p.columns, y + i * p.columns);
    }
    if (past_caches) stream_fence();
  });
}

void forward(const Problem& p, const std::int64_t* indices, const float* table, float* y) {
  const std::int64_t bytes = p.count * p.columns * static_cast<std::int64_t>(sizeof(float));
  if (outgrows_cache(bytes) && can_stream(y, p.columns)) {
    copy_rows<true>(p, indices, table, y);
  } else {
    copy_rows<false>(p, indices, table, y);
  }
}

// The table's gradient cut into rectangles, one a task. A task zeroes its own and walks all
// indices for the rows that lie in it, so that every element has one owner and one order.
struct Rectangles {
  std::int64_t rows;     // of one
  std::int64_t columns;  // of one
  std::int64_t across;   // how many lie side by side
  std::int64_t tasks;
};

Rectangles cut(const Problem& p) {
  // Zeroing decides where most rows are met by no index: whole rows, as many as stay in L2 between
  // their zeroing and their sums. Where rows are met more than once the sums decide, and some rows
  // may have most of the indices: columns are cut too, into pairs of cache lines.
  constexpr std::int64_t floats = 65536, side = 32;
  const std::int64_t columns = p.count > p.rows && p.columns > side ? side : p.columns;
  // Walking the indices costs each task about as much as adding 8 floats an index. All together
  // that is to stay below the work itself; but 4 ranges are always worth it.
  const std::int64_t work = p.columns * (p.rows / (p.count + 1) + 1);
  const std::int64_t most = max_i(4, work / 8);
  const std::int64_t range = max_i(max_i(1, floats / columns), ceil_div(p.rows, most));
  const std::int64_t across = ceil_div(p.columns, columns);
  return {range, columns, across, ceil_div(p.rows, range) * across};
}

LAMELLA_INLINE void add_row(const float* from, std::int64_t columns, float* to) {
  std::int64_t c = 0;
  for (; c + Float::width <= columns; c += Float::width) {
    store(to + c, load(to + c) + load(from + c));
  }
  if (c == columns) return;
  const std::int64_t n = columns - c;
  store_n(to + c, load_n(to + c, n) + load_n(from + c, n), n);
}

void backward(const Problem& p, const std::int64_t* indices, const float* dy, float* dtable) {
  const Rectangles cuts = cut(p);
  parallel_for(cuts.tasks, [&](std::int64_t task) {
    const std::int64_t first = task / cuts.across * cuts.rows;
    const std::int64_t rows = min_i(cuts.rows, p.rows - first);
    const std::int64_t left = task % cuts.across * cuts.columns;
    const std::int64_t columns = min_i(cuts.columns, p.columns - left);
    float* const corner = dtable + first * p.columns + left;
    if (columns == p.columns) {
      std::memset(corner, 0, static_cast<std::size_t>(rows * columns) * sizeof(float));
    } else {
      for (std::int64_t r = 0; r < rows; ++r) {
        std::memset(corner + r * p.columns, 0, static_cast<std::size_t>(columns) * sizeof(float));
      }
    }
    for (std::int64_t i = 0; i < p.count; ++i) {
      const std::int64_t row = indices[i] - first;
      if (static_cast<std::uint64_t>(row) >= static_cast<std::uint64_t>(rows)) continue;
      add_row(dy + i * p.columns + left, columns, corner + row * p.columns);
    }
  });
}

}  // namespace
}  // namespace lamella::LAMELLA_ISA

namespace lamella::embedding::LAMELLA_ISA {

extern const Kernels kernels = {lamella::LAMELLA_ISA::forward, lamella::LAMELLA_ISA::backward};

}  // namespace lamella::embedding::LAMELLA_ISA
