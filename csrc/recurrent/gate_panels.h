// How the recurrent ops hold gates and weights. Units come in blocks of 16, and a block has the
// values of all its gates together:
//
//   row of gates   [block][gate][16]       gates * padded units floats; Keras' order is
//   [gate][unit] gate panels    [block][term][gate][16] a kernel (terms, gates * units), to
//   multiply rows with unit panels    [64 columns][block][gate][16][64]  a kernel transposed, to
//   multiply rows of
//                                          gate gradients with
//
// So a step of a block of units is one product and a pointwise function of what it gave. Blocks do
// not depend on the instruction set; units beyond the last one are zeros.
#pragma once

#include "gemm/gemm.h"
#include "gemm/tile.h"

namespace lamella::LAMELLA_ISA {

constexpr std::int64_t unit_block = 16;
constexpr std::int64_t unit_panel = 64;

struct GateLayout {
  std::int64_t units;
  std::int64_t gates;

  std::int64_t blocks() const { return ceil_div(units, unit_block); }
  std::int64_t padded() const { return blocks() * unit_block; }
  std::int64_t block_floats() const { return gates * unit_block; }
  std::int64_t row_floats() const { return gates * padded(); }
  // Units of a block.
  std::int64_t count(std::int64_t block) const {
    return min_i(unit_block, units - block * unit_block);
  }
};

// to[block][term][gate][16] for blocks [begin, end) of kernel (terms, gates * units).
inline void pack_gate_panels(const GateLayout& l, const float* kernel, std::int64_t terms,
                             std::int64_t begin, std::int64_t end, float* to) {
  for (std::int64_t block = begin; block < end; ++block) {
    const std::int64_t count = l.count(block);
    float* panel = to + block * terms * l.block_floats();
    for (std::int64_t k = 0; k < terms; ++k) {
      const float* from = kernel + k * l.gates * l.units + block * unit_block;
      for (std::int64_t gate = 0; gate < l.gates; ++gate, panel += unit_block) {
        for (std::int64_t u = 0; u < unit_block; u += Float::width) {
          const std::int64_t left = max_i(0, min_i(Float::width, count - u));
          store(panel + u, load_n(from + gate * l.units + u, left));
        }
      }
    }
  }
}

// kernel (terms, gates * units) from rows of gates (terms, row_floats).
inline void unpack_gate_rows(const GateLayout& l, const float* rows, std::int64_t terms,
                             float* kernel) {
  for (std::int64_t k = 0; k < terms; ++k, rows += l.row_floats()) {
    float* const to = kernel + k * l.gates * l.units;
    for (std::int64_t block = 0; block < l.blocks(); ++block) {
      const float* from = rows + block * l.block_floats();
      for (std::int64_t gate = 0; gate < l.gates; ++gate, from += unit_block) {
        std::memcpy(to + gate * l.units + block * unit_block, from,
                    static_cast<std::size_t>(l.count(block)) * sizeof(float));
      }
    }
  }
}

// A block's gates [begin, end) from a row of gates in Keras' order.
inline void copy_block(const GateLayout& l, const float* row, std::int64_t block,
                       std::int64_t begin, std::int64_t end, float* to) {
  for (std::int64_t gate = begin; gate < end; ++gate) {
    std::memcpy(to + gate * unit_block, row + gate * l.units + block * unit_block,
                unit_block * sizeof(float));
  }
}

inline std::int64_t unit_panels(std::int64_t columns) {
  return ceil_div(columns, unit_panel);
}

// Unit panels [begin, end) of kernel (columns, gates * units).
inline void pack_unit_panels(const GateLayout& l, const float* kernel, std::int64_t columns,
                             std::int64_t begin, std::int64_t end, float* to) {
  to += begin * l.row_floats() * unit_panel;
  for (std::int64_t panel = begin; panel < end; ++panel) {
    const std::int64_t j = panel * unit_panel;
    for (std::int64_t block = 0; block < l.blocks(); ++block) {
      const std::int64_t count = l.count(block);
      for (std::int64_t gate = 0; gate < l.gates; ++gate) {
        const float* from = kernel + gate * l.units + block * unit_block;
        pack_panel({from, 1, l.gates * l.units}, count, j, min_i(unit_panel, columns - j),
                   unit_panel, to);
        for (float* zeros = to + count * unit_panel; zeros < to + unit_block * unit_panel;
             zeros += Float::width) {
          store(zeros, zero());
        }
        to += unit_block * unit_panel;
      }
    }
  }
}

// c[r][j] = bias[j] or 0 or c[r][j], + sum over segments and their terms of a[r][.] panel[.][j],
// for rows of pointers and columns j < `columns` <= width; widths and columns are multiples of 16.
struct PanelProduct {
  const float* const* a;
  const Segment* segments;
  std::int64_t segment_count;
  const float* panel;
  std::int64_t width;
  const float* bias;  // null: none
  bool accumulate;
  float* const* c;
  std::int64_t rows;
  std::int64_t columns;
};

inline void multiply(const PanelProduct& p) {
  if (p.rows == 0) return;
  Tile t = {};
  t.segments = p.segments;
  t.segment_count = p.segment_count;
  t.b_stride = p.width;
  t.accumulate = p.accumulate;
  for (std::int64_t j = 0; j < p.columns; j += max_tile_vectors * Float::width) {
    t.columns = min_i(p.columns - j, max_tile_vectors * Float::width);
    const int vectors = tile_vectors(t.columns);
    t.b = p.panel + j;
    t.bias = p.bias == nullptr ? nullptr : p.bias + j;
    const std::int64_t full = full_tile_rows(vectors);
    const std::int64_t height = ceil_div(p.rows, ceil_div(p.rows, full));
    for (std::int64_t r = 0; r < p.rows; r += height) {
      const std::int64_t rows = min_i(height, p.rows - r);
      float* c[max_tile_rows];
      for (std::int64_t i = 0; i < rows; ++i) c[i] = p.c[r + i] + j;
      t.a = p.a + r;
      t.c = c;
      tile_kernel(Form::rows, rows, vectors)(t);
    }
  }
}

}  // namespace lamella::LAMELLA_ISA
