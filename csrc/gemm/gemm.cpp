#include "gemm/gemm.h"

#include "gemm/tile.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {
namespace {

// A panel of B (k_block x two vectors) stays in L1 while the tiles of A pass by: 24 KiB with
// AVX-512, half of it with AVX2.
constexpr std::int64_t max_k_block = 224;
// Rows of A packed at a time.
constexpr std::int64_t max_m_block = 3072;
// Operands up to this size are read in place: they fit L2 beside everything else.
constexpr std::int64_t in_place_bytes = 160 << 10;
// Multiply-adds worth a task of their own: some microseconds.
constexpr std::int64_t task_grain = 64 << 10;

struct Plan {
  int vectors;
  std::int64_t panel_width;
  std::int64_t panels;
  std::int64_t tile_rows;
  std::int64_t k_block;
  bool pack_a;
  bool pack_b;
  bool pack_last_panel;  // of a B read in place: its last vector would reach beyond the row
  std::int64_t m_block;
  std::int64_t tiles_per_task;
  std::int64_t panels_per_task;
};

std::int64_t balanced(std::int64_t size, std::int64_t most) {
  if (size <= 0) return 1;
  return ceil_div(size, ceil_div(size, most));
}

// Sizes of 0 are planned as 1: gemm_workspace is asked before gemm decides that there is no work.
Plan make_plan(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& b) {
  m = max_i(m, 1);
  n = max_i(n, 1);
  constexpr std::int64_t width = Float::width;
  Plan p;
  p.vectors = n <= width ? 1 : (m <= wide_tile_rows && n > 2 * width) ? max_tile_vectors : 2;
  p.panel_width = p.vectors * width;
  p.panels = ceil_div(n, p.panel_width);
  p.tile_rows = balanced(min_i(m, max_m_block), max_tile_rows);
  const bool b_is_small = k * n * 4 <= in_place_bytes || m <= 2 * max_tile_rows;
  p.pack_b = b.column_stride != 1 || !b_is_small;
  p.pack_last_panel = !p.pack_b && n % p.panel_width != 0;
  p.pack_a = m * k * 4 > in_place_bytes / 2 && p.panels > 2 && k > 1;
  // Without packing the reduction is cut only where a panel of B would outgrow L1 and L2's reach.
  p.k_block = balanced(k, p.pack_a || p.pack_b ? max_k_block : 4 * max_k_block);
  p.m_block = p.pack_a ? balanced(m, max_m_block) : m;
  p.tiles_per_task = 8;
  p.panels_per_task = 16;
  const std::int64_t tiles = ceil_div(p.m_block, p.tile_rows);
  const std::int64_t work = p.tile_rows * p.panel_width * k;
  const auto tasks = [&] {
    return ceil_div(tiles, p.tiles_per_task) * ceil_div(p.panels, p.panels_per_task);
  };
  const auto worthwhile = [&] {
    return p.tiles_per_task * p.panels_per_task * work >= 2 * task_grain;
  };
  p.tiles_per_task = min_i(p.tiles_per_task, tiles);
  p.panels_per_task = min_i(p.panels_per_task, p.panels);
  while (tasks() < 16 && worthwhile() && (p.panels_per_task > 1 || p.tiles_per_task > 1)) {
    if (p.panels_per_task >= p.tiles_per_task) {
      p.panels_per_task = ceil_div(p.panels_per_task, 2);
    } else {
      p.tiles_per_task = ceil_div(p.tiles_per_task, 2);
    }
  }
  return p;
}

struct Workspace {
  std::int64_t a_floats;
  std::int64_t b_floats;
};

Workspace workspace_for(const Plan& p, bool a_is_transposed) {
  const std::int64_t panels = p.panels;
  // In the columns form the last tile is as wide as the others.
  const std::int64_t rows =
      a_is_transposed ? ceil_div(p.m_block, p.tile_rows) * p.tile_rows : p.m_block;
  return {p.pack_a ? rows * p.k_block : 0, p.pack_b ? panels * p.panel_width * p.k_block : 0};
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

// Rows [i, i + rows) and terms [0, k) of A, in the form the tiles read: row by row, or for a
// transposed A [k][rows].
void pack_a_rows(const Matrix& a, std::int64_t i, std::int64_t rows, std::int64_t k, float* to) {
  for (std::int64_t r = 0; r < rows; ++r) {
    std::memcpy(to + r * k, a.data + (i + r) * a.row_stride,
                static_cast<std::size_t>(k) * sizeof(float));
  }
}

void pack_a_columns(const Matrix& a, std::int64_t i, std::int64_t rows, std::int64_t k, float* to) {
  for (std::int64_t t = 0; t < k; ++t) {
    const float* from = a.data + i + t * a.column_stride;
    std::int64_t r = 0;
    for (; r + Float::width <= rows; r += Float::width) store(to + t * rows + r, load(from + r));
    if (r < rows) store_n(to + t * rows + r, load_n(from + r, rows - r), rows - r);
  }
}

class Product {
 public:
  Product(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b,
          float* c, std::int64_t ldc, const Finish& finish, float* workspace)
      : m_(m),
        n_(n),
        k_(k),
        a_(a),
        b_(b),
        c_(c),
        ldc_(ldc),
        finish_(finish),
        plan_(make_plan(m, n, k, b)),
        a_transposed_(a.column_stride != 1),
        packed_b_(workspace),
        packed_a_(workspace + tail_floats() + workspace_for(plan_, a_transposed_).b_floats) {}

  void run() {
    const bool is_relu = finish_.activation.kind == Kind::relu;
    // With the pre-activation kept, the tile goes there first and the activation on to C.
    relu_in_tile_ = is_relu && finish_.pre_activation == nullptr;
    if (plan_.pack_last_panel) {
      const std::int64_t j = (plan_.panels - 1) * plan_.panel_width;
      pack_panel(b_, k_, j, n_ - j, plan_.panel_width, packed_b_);
    }
    for (std::int64_t i = 0; i < m_; i += plan_.m_block) {
      const std::int64_t rows = min_i(plan_.m_block, m_ - i);
      std::int64_t k = 0;
      do {
        const std::int64_t length = min_i(plan_.k_block, k_ - k);
        block(i, rows, k, length);
        k += plan_.k_block;
      } while (k < k_);
    }
  }

  // The packed last panel of a B read in place holds all of k.
  std::int64_t tail_floats() const { return plan_.pack_last_panel ? k_ * plan_.panel_width : 0; }

 private:
  void block(std::int64_t i, std::int64_t rows, std::int64_t k, std::int64_t length) {
    if (plan_.pack_b) pack_b_block(k, length);
    const std::int64_t tiles = ceil_div(rows, plan_.tile_rows);
    if (plan_.pack_a) {
      parallel_chunks(tiles, 8, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; ++t) {
          const std::int64_t r = t * plan_.tile_rows;
          const std::int64_t tile_rows = min_i(plan_.tile_rows, rows - r);
          const Matrix part = {a_.data + k * a_.column_stride, a_.row_stride, a_.column_stride};
          if (a_transposed_) {
            pack_a_columns(part, i + r, tile_rows, length, packed_a_ + r * length);
          } else {
            pack_a_rows(part, i + r, tile_rows, length, packed_a_ + r * length);
          }
        }
      });
    }
    const std::int64_t tile_groups = ceil_div(tiles, plan_.tiles_per_task);
    const std::int64_t panel_groups = ceil_div(plan_.panels, plan_.panels_per_task);
    const auto task = [&](std::int64_t index) {
      const std::int64_t tile_begin = index / panel_groups * plan_.tiles_per_task;
      const std::int64_t tile_end = min_i(tiles, tile_begin + plan_.tiles_per_task);
      const std::int64_t panel_begin = index % panel_groups * plan_.panels_per_task;
      const std::int64_t panel_end = min_i(plan_.panels, panel_begin + plan_.panels_per_task);
      for (std::int64_t panel = panel_begin; panel < panel_end; ++panel) {
        for (std::int64_t t = tile_begin; t < tile_end; ++t) {
          tile(i, rows, t * plan_.tile_rows, panel, k, length);
        }
      }
    };
    if (rows * n_ * length < 2 * task_grain) {
      for (std::int64_t index = 0; index < tile_groups * panel_groups; ++index) task(index);
    } else {
      parallel_for(tile_groups * panel_groups, task);
    }
  }

  void pack_b_block(std::int64_t k, std::int64_t length) {
    const Matrix part = {b_.data + k * b_.row_stride, b_.row_stride, b_.column_stride};
    parallel_chunks(plan_.panels, 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t panel = begin; panel < end; ++panel) {
        const std::int64_t j = panel * plan_.panel_width;
        pack_panel(part, length, j, min_i(plan_.panel_width, n_ - j), plan_.panel_width,
                   packed_b_ + panel * plan_.panel_width * length);
      }
    });
  }

  void tile(std::int64_t i, std::int64_t block_rows, std::int64_t r, std::int64_t panel,
            std::int64_t k, std::int64_t length) const {
    const std::int64_t rows = min_i(plan_.tile_rows, block_rows - r);
    const std::int64_t j = panel * plan_.panel_width;
    const bool first = k == 0;
    const bool last = k + length >= k_;
    float* const target = finish_.pre_activation != nullptr ? finish_.pre_activation : c_;

    const float* a_rows[max_tile_rows];
    float* c_rows[max_tile_rows];
    Tile t;
    if (a_transposed_) {
      a_rows[0] = plan_.pack_a ? packed_a_ + r * length : a_.data + i + r + k * a_.column_stride;
      t.a_step = plan_.pack_a ? rows : a_.column_stride;
    } else {
      const float* base =
          plan_.pack_a ? packed_a_ + r * length : a_.data + (i + r) * a_.row_stride + k;
      const std::int64_t stride = plan_.pack_a ? length : a_.row_stride;
      for (std::int64_t q = 0; q < rows; ++q) a_rows[q] = base + q * stride;
      t.a_step = 1;
    }
    for (std::int64_t q = 0; q < rows; ++q) c_rows[q] = target + (i + r + q) * ldc_ + j;
    const Segment segment = {0, 0, length};
    t.a = a_rows;
    t.segments = &segment;
    t.segment_count = 1;
    t.c = c_rows;
    t.columns = min_i(plan_.panel_width, n_ - j);
    t.bias = finish_.bias == nullptr ? nullptr : finish_.bias + j;
    t.accumulate = finish_.accumulate || !first;
    t.relu = relu_in_tile_ && last;
    t.b_stride = plan_.panel_width;
    if (plan_.pack_b) {
      t.b = packed_b_ + panel * plan_.panel_width * length;
    } else if (plan_.pack_last_panel && panel == plan_.panels - 1) {
      t.b = packed_b_ + k * plan_.panel_width;
    } else {
      t.b = b_.data + k * b_.row_stride + j;
      t.b_stride = b_.row_stride;
    }
    // The last panel may need fewer vectors than the others.
    const int vectors = t.columns <= Float::width                             ? 1
                        : plan_.vectors == 4 && t.columns <= 2 * Float::width ? 2
                                                                              : plan_.vectors;
    tile_kernel(a_transposed_ ? Form::columns : Form::rows, rows, vectors)(t);
    if (!last || relu_in_tile_ || finish_.activation.kind == Kind::linear) return;
    for (std::int64_t q = 0; q < rows; ++q) {
      float* y = c_ + (i + r + q) * ldc_ + j;
      if (target != c_) {
        std::memcpy(y, c_rows[q], static_cast<std::size_t>(t.columns) * sizeof(float));
      }
      activate_row(finish_.activation, y, t.columns);
    }
  }

  std::int64_t m_, n_, k_;
  Matrix a_, b_;
  float* c_;
  std::int64_t ldc_;
  Finish finish_;
  Plan plan_;
  bool a_transposed_;
  float* packed_b_;
  float* packed_a_;
  bool relu_in_tile_ = false;
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

std::int64_t gemm_workspace(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a,
                            const Matrix& b) {
  if (m <= 0 || n <= 0) return 0;
  const Plan p = make_plan(m, n, k, b);
  const Workspace w = workspace_for(p, a.column_stride != 1);
  return w.a_floats + w.b_floats + (p.pack_last_panel ? k * p.panel_width : 0);
}

void gemm(std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b,
          float* c, std::int64_t ldc, const Finish& finish, float* workspace) {
  if (m <= 0 || n <= 0) return;
  Product(m, n, k, a, b, c, ldc, finish, workspace).run();
}

}  // namespace lamella::LAMELLA_ISA
