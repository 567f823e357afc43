#include "gemm/gemm.h"

#include "gemm/tile.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {
namespace {

constexpr std::int64_t width = Float::width;
// Terms of the reduction between two visits of a tile of C: long, because each visit reads and
// writes the tile. A panel of B of that length is streamed from L2 where it outgrows L1.
constexpr std::int64_t max_k_block = 512;
// Rows of A that stay in L2 while the panels of B pass by, and columns of B copied at a time.
constexpr std::int64_t max_m_block = 240;
constexpr std::int64_t max_n_block = 1024;
// B is copied where that is spread over this many tiles of rows, fewer if its vectors lie across
// cache lines, or where it is too large to lie in L2.
constexpr std::int64_t in_place_tiles = 40;
constexpr std::int64_t in_place_tiles_unaligned = 10;
constexpr std::int64_t in_place_floats = 128 << 10;
// Multiply-adds worth a thread: some microseconds.
constexpr std::int64_t thread_grain = 96 << 10;

std::int64_t balanced(std::int64_t size, std::int64_t most) {
  return ceil_div(size, ceil_div(size, most));
}

std::int64_t round_up(std::int64_t size, std::int64_t unit) {
  return ceil_div(size, unit) * unit;
}

// The grid of `threads` rectangles, or fewer, that leaves the least to the busiest thread: its
// tiles, and what it copies or reads of A and B.
void cut(GemmPlan& p, std::int64_t threads) {
  const std::int64_t panel = p.vectors * width;
  const std::int64_t tiles = ceil_div(p.m, full_tile_rows(p.vectors));
  const std::int64_t panels = ceil_div(p.n, panel);
  double best = 0.0;
  for (std::int64_t rows = 1; rows <= min_i(threads, tiles); ++rows) {
    const std::int64_t columns = min_i(threads / rows, panels);
    const std::int64_t task_rows = ceil_div(p.m, rows);
    const std::int64_t task_panels = ceil_div(panels, columns);
    const auto m = static_cast<double>(task_rows);
    const auto n = static_cast<double>(task_panels * panel);
    // A float read costs about as much as 8 * width multiply-adds.
    const double cost = m * n + 8.0 * width * (m + n);
    if (best != 0.0 && cost >= best) continue;
    best = cost;
    p.task_rows = task_rows;
    p.task_columns = task_panels * panel;
  }
}

// to[u * to_stride + q] = from[q * from_stride + u] for u, q < 4.
LAMELLA_INLINE void transpose_4x4(const float* from, std::int64_t from_stride, float* to,
                                  std::int64_t to_stride) {
#if defined(__SSE2__)
  __m128 r0 = _mm_loadu_ps(from);
  __m128 r1 = _mm_loadu_ps(from + from_stride);
  __m128 r2 = _mm_loadu_ps(from + 2 * from_stride);
  __m128 r3 = _mm_loadu_ps(from + 3 * from_stride);
  _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
  _mm_storeu_ps(to, r0);
  _mm_storeu_ps(to + to_stride, r1);
  _mm_storeu_ps(to + 2 * to_stride, r2);
  _mm_storeu_ps(to + 3 * to_stride, r3);
#else
  for (std::int64_t u = 0; u < 4; ++u) {
    for (std::int64_t q = 0; q < 4; ++q) to[u * to_stride + q] = from[q * from_stride + u];
  }
#endif
}

// Splits rows [0, rows) of a transposed A into tiles [k][tile_rows]. Whole vectors are stored:
// what reaches beyond a tile's column is overwritten by the next one, at the end it fills the
// `width` floats left between tiles.
void pack_transposed(const Matrix& a, std::int64_t rows, std::int64_t tile_rows, std::int64_t k,
                     float* to) {
  const std::int64_t tile_floats = k * tile_rows + width;
  for (std::int64_t t = 0; t < k; ++t) {
    const float* const from = a.data + t * a.column_stride;
    float* tile = to + t * tile_rows;
    for (std::int64_t r = 0; r < rows; r += tile_rows, tile += tile_floats) {
      for (std::int64_t q = 0; q < tile_rows; q += width) {
        const std::int64_t left = max_i(rows - r - q, 0);
        store(tile + q, left >= width ? load(from + r + q) : load_n(from + r + q, left));
      }
    }
  }
}

class Product {
 public:
  Product(const GemmPlan& plan, const Matrix& a, const Matrix& b, float* c, std::int64_t ldc,
          const Finish& finish)
      : p_(plan),
        a_(a),
        b_(b),
        c_(c),
        ldc_(ldc),
        finish_(finish),
        panel_width_(plan.vectors * width),
        target_(finish.pre_activation != nullptr ? finish.pre_activation : c),
        // With the pre-activation kept, the tile goes there first and the activation on to C.
        relu_in_tile_(finish.activation.kind == Kind::relu && finish.pre_activation == nullptr) {}

  // Rows [i, i_end) and columns [j, j_end) of C.
  void rectangle(std::int64_t i, std::int64_t i_end, std::int64_t j, std::int64_t j_end,
                 float* workspace) const {
    for (std::int64_t column = j; column < j_end; column += p_.n_block) {
      const std::int64_t column_end = min_i(j_end, column + p_.n_block);
      std::int64_t k = 0;
      do {
        const std::int64_t length = min_i(p_.k_block, p_.k - k);
        float* const packed_a = pack_b(column, column_end, k, length, workspace);
        for (std::int64_t row = i; row < i_end; row += p_.m_block) {
          block(row, min_i(i_end, row + p_.m_block), column, column_end, k, length, workspace,
                packed_a);
        }
        k += p_.k_block;
      } while (k < p_.k);
    }
  }

 private:
  bool packs(std::int64_t panel_end) const {
    return p_.pack_b || (p_.pack_last_panel && panel_end > p_.n);
  }

  // Copies what the plan says of B's block and returns the end of it.
  float* pack_b(std::int64_t j, std::int64_t j_end, std::int64_t k, std::int64_t length,
                float* to) const {
    // A few rows at a time: each row of B is read on for as long as its page is at hand.
    const std::int64_t step = b_.column_stride == 1 ? 16 : length;
    float* end = to;
    for (std::int64_t t = 0; t < length; t += step) {
      const std::int64_t terms = min_i(step, length - t);
      const Matrix part = {b_.data + (k + t) * b_.row_stride, b_.row_stride, b_.column_stride};
      end = to;
      for (std::int64_t column = j; column < j_end; column += panel_width_) {
        if (!packs(column + panel_width_)) continue;
        pack_panel(part, terms, column, min_i(panel_width_, p_.n - column), panel_width_,
                   end + t * panel_width_);
        end += length * panel_width_;
      }
    }
    return end;
  }

  void block(std::int64_t i, std::int64_t i_end, std::int64_t j, std::int64_t j_end, std::int64_t k,
             std::int64_t length, const float* packed_b, float* packed_a) const {
    const Segment segment = {0, 0, length};
    const bool a_transposed = a_.column_stride != 1;
    if (p_.pack_a) {
      pack_transposed({a_.data + i + k * a_.column_stride, 1, a_.column_stride}, i_end - i,
                      p_.tile_rows, length, packed_a);
    }
    const bool last = k + length >= p_.k;
    Tile t;
    t.segments = &segment;
    t.segment_count = 1;
    t.accumulate = finish_.accumulate || k > 0;
    t.relu = relu_in_tile_ && last;
    t.stream = false;
    const float* a_rows[max_tile_rows];
    float* c_rows[max_tile_rows];
    t.a = a_rows;
    t.c = c_rows;
    for (std::int64_t column = j; column < j_end; column += panel_width_) {
      t.columns = min_i(panel_width_, p_.n - column);
      t.bias = finish_.bias == nullptr ? nullptr : finish_.bias + column;
      if (packs(column + panel_width_)) {
        t.b = packed_b;
        t.b_stride = panel_width_;
        packed_b += length * panel_width_;
      } else {
        t.b = b_.data + k * b_.row_stride + column;
        t.b_stride = b_.row_stride;
      }
      // The last panel may need fewer vectors than the others.
      const int vectors = tile_vectors(t.columns);
      for (std::int64_t row = i; row < i_end; row += p_.tile_rows) {
        const std::int64_t rows = min_i(p_.tile_rows, i_end - row);
        const float* const a = a_.data + row * a_.row_stride + k * a_.column_stride;
        if (p_.pack_a) {
          a_rows[0] = packed_a + (row - i) / p_.tile_rows * (length * p_.tile_rows + width);
          t.a_step = p_.tile_rows;
          t.ahead = {a_rows[0], 0};
        } else {
          for (std::int64_t r = 0; r < rows; ++r) a_rows[r] = a + r * a_.row_stride;
          t.a_step = a_.column_stride;
          t.ahead = {a, 0};
        }
        for (std::int64_t r = 0; r < rows; ++r) c_rows[r] = target_ + (row + r) * ldc_ + column;
        const Form form = a_transposed ? Form::columns : Form::rows;
        tile_kernel(form, rows, vectors)(t);
        if (last) activate(row, rows, column, t.columns);
      }
    }
  }

  void activate(std::int64_t row, std::int64_t rows, std::int64_t column,
                std::int64_t columns) const {
    if (relu_in_tile_ || finish_.activation.kind == Kind::linear) return;
    for (std::int64_t r = row; r < row + rows; ++r) {
      float* const y = c_ + r * ldc_ + column;
      if (target_ != c_) {
        std::memcpy(y, target_ + r * ldc_ + column,
                    static_cast<std::size_t>(columns) * sizeof(float));
      }
      activate_row(finish_.activation, y, columns);
    }
  }

  const GemmPlan& p_;
  Matrix a_, b_;
  float* c_;
  std::int64_t ldc_;
  Finish finish_;
  std::int64_t panel_width_;
  float* target_;
  bool relu_in_tile_;
};

}  // namespace

void pack_panel(const Matrix& b, std::int64_t k, std::int64_t j, std::int64_t columns,
                std::int64_t width, float* panel) {
  if (b.column_stride == 1) {
    for (std::int64_t t = 0; t < k; ++t) {
      const float* from = b.data + t * b.row_stride + j;
      float* to = panel + t * width;
      for (std::int64_t q = 0; q < width; q += Float::width) {
        const std::int64_t left = columns - q;
        store(to + q, left >= Float::width ? load(from + q)
                      : left > 0           ? load_n(from + q, left)
                                           : zero());
      }
    }
    return;
  }
  // b.row_stride is 1: columns lie as rows in memory. Four of them at a time, four terms each, are
  // turned in registers.
  std::int64_t t = 0;
  for (; t + 4 <= k; t += 4) {
    float* to = panel + t * width;
    std::int64_t q = 0;
    for (; q + 4 <= columns; q += 4) {
      transpose_4x4(b.data + (j + q) * b.column_stride + t, b.column_stride, to + q, width);
    }
    for (; q < columns; ++q) {
      const float* from = b.data + (j + q) * b.column_stride + t;
      for (std::int64_t u = 0; u < 4; ++u) to[u * width + q] = from[u];
    }
    for (; q < width; ++q) {
      for (std::int64_t u = 0; u < 4; ++u) to[u * width + q] = 0.0f;
    }
  }
  for (; t < k; ++t) {
    float* to = panel + t * width;
    for (std::int64_t q = 0; q < columns; ++q) to[q] = b.data[(j + q) * b.column_stride + t];
    for (std::int64_t q = columns; q < width; ++q) to[q] = 0.0f;
  }
}

GemmPlan gemm_plan(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b,
                   int threads) {
  GemmPlan p = {};
  p.m = m;
  p.n = n;
  p.k = k;
  if (m <= 0 || n <= 0) return p;
  p.vectors = m <= wide_tile_rows ? tile_vectors(n) : panel_vectors(n);
  const std::int64_t panel = p.vectors * width;
  cut(p, max_i(1, min_i(threads, m * n * max_i(k, 1) / thread_grain)));
  p.tile_rows = balanced(p.task_rows, full_tile_rows(p.vectors));
  const std::int64_t tasks = ceil_div(m, p.task_rows) * ceil_div(n, p.task_columns);
  p.slots = static_cast<int>(tasks);
  p.k_block = balanced(max_i(k, 1), max_k_block);
  p.m_block = min_i(p.task_rows, round_up(balanced(p.task_rows, max_m_block), p.tile_rows));
  p.n_block = min_i(p.task_columns, round_up(balanced(p.task_columns, max_n_block), panel));
  // A B no wider than a panel is packed as it lies.
  const bool aligned = is_aligned(b.data, b.row_stride);
  const std::int64_t tiles = aligned ? in_place_tiles : in_place_tiles_unaligned;
  const bool large = p.task_rows > tiles * p.tile_rows ||
                     (p.task_rows > p.tile_rows && p.task_columns * p.k_block > in_place_floats);
  const bool is_panel = aligned && n == panel && b.row_stride == panel;
  p.pack_b = b.column_stride != 1 || (large && !is_panel);
  p.pack_last_panel = !p.pack_b && n % panel != 0;
  // Only a transposed A is ever copied: its tiles are a few floats out of each of k rows.
  p.pack_a = a.column_stride != 1 && p.task_columns >= 4 * panel && p.task_rows > 8 * p.tile_rows;
  const std::int64_t b_columns = p.pack_b ? p.n_block : p.pack_last_panel ? panel : 0;
  const std::int64_t a_tiles = p.pack_a ? ceil_div(p.m_block, p.tile_rows) : 0;
  p.slot_floats = round_up(p.k_block * b_columns + a_tiles * (p.k_block * p.tile_rows + width), 16);
  return p;
}

void gemm(const GemmPlan& plan, const Matrix& a, const Matrix& b, float* c, std::int64_t ldc,
          const Finish& finish, float* workspace) {
  if (plan.m <= 0 || plan.n <= 0) return;
  const Product product(plan, a, b, c, ldc, finish);
  const std::int64_t across = ceil_div(plan.n, plan.task_columns);
  parallel_for_slots(plan.slots, plan.slots, [&](std::int64_t task, int slot) {
    const std::int64_t i = task / across * plan.task_rows;
    const std::int64_t j = task % across * plan.task_columns;
    product.rectangle(i, min_i(plan.m, i + plan.task_rows), j, min_i(plan.n, j + plan.task_columns),
                      workspace + slot * plan.slot_floats);
  });
}

}  // namespace lamella::LAMELLA_ISA
