// One row of outputs of a convolution with few input channels: the reduction is short and scattered
// (9 terms for a 3x3 window on one channel), so what counts is the work around it. A whole row is
// one call, and where the kernel's panel is small enough it stays in registers for all of the row.
#pragma once

#include "simd/vec.h"

namespace lamella::LAMELLA_ISA {

// y[j][c] = bias[c] + sum over k of x[j * x_step + table[k]] * b[k * vectors * width + c], then
// max(0, .) if relu, for outputs j and the first `columns` columns.
struct TableRow {
  const float* x;
  std::int64_t x_step;
  const std::int32_t* table;
  std::int64_t terms;
  const float* b;
  const float* bias;  // null: none
  bool relu;
  float* y;
  std::int64_t y_step;
  std::int64_t outputs;
  std::int64_t columns;
};

namespace detail {

template <int outputs, int vectors>
LAMELLA_INLINE void finish_outputs(const TableRow& t, Float (&acc)[outputs][vectors], float* y) {
#pragma GCC unroll 8
  for (int r = 0; r < outputs; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      const Float value = t.relu ? max(zero(), acc[r][v]) : acc[r][v];
      const std::int64_t left = t.columns - v * Float::width;
      float* to = y + r * t.y_step + v * Float::width;
      if (left >= Float::width) {
        store(to, value);
      } else {
        store_n(to, value, max_i(left, 0));
      }
    }
  }
}

template <int outputs, int vectors>
LAMELLA_INLINE void table_outputs(const TableRow& t, const Float (&first)[vectors],
                                  std::int64_t j) {
  Float acc[outputs][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < outputs; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) acc[r][v] = first[v];
  }
  const float* x = t.x + j * t.x_step;
  const float* b = t.b;
  for (std::int64_t k = 0; k < t.terms; ++k, b += vectors * Float::width) {
    const float* from = x + t.table[k];
    Float w[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) w[v] = load(b + v * Float::width);
#pragma GCC unroll 8
    for (int r = 0; r < outputs; ++r) {
      const Float a = set(from[r * t.x_step]);
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) acc[r][v] = fma(a, w[v], acc[r][v]);
    }
  }
  finish_outputs(t, acc, t.y + j * t.y_step);
}

// The panel in registers: terms * vectors of them.
template <int terms, int outputs, int vectors>
LAMELLA_INLINE void held_outputs(const TableRow& t, const Float (&first)[vectors],
                                 const Float (&w)[terms][vectors], std::int64_t j) {
  Float acc[outputs][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < outputs; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) acc[r][v] = first[v];
  }
  const float* x = t.x + j * t.x_step;
#pragma GCC unroll 16
  for (int k = 0; k < terms; ++k) {
    const float* from = x + t.table[k];
#pragma GCC unroll 8
    for (int r = 0; r < outputs; ++r) {
      const Float a = set(from[r * t.x_step]);
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) acc[r][v] = fma(a, w[k][v], acc[r][v]);
    }
  }
  finish_outputs(t, acc, t.y + j * t.y_step);
}

template <int vectors>
LAMELLA_INLINE void load_first(const TableRow& t, Float (&first)[vectors]) {
#pragma GCC unroll 2
  for (int v = 0; v < vectors; ++v) {
    const std::int64_t left = t.columns - v * Float::width;
    first[v] = t.bias == nullptr      ? zero()
               : left >= Float::width ? load(t.bias + v * Float::width)
                                      : load_n(t.bias + v * Float::width, max_i(left, 0));
  }
}

}  // namespace detail

template <int vectors>
inline void table_row(const TableRow& t) {
  Float first[vectors];
  detail::load_first(t, first);
  std::int64_t j = 0;
  if constexpr (Float::registers == 32) {
    if (t.terms == 9) {
      Float w[9][vectors];
#pragma GCC unroll 16
      for (int k = 0; k < 9; ++k) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) w[k][v] = load(t.b + (k * vectors + v) * Float::width);
      }
      for (; j + 4 <= t.outputs; j += 4) detail::held_outputs<9, 4>(t, first, w, j);
      for (; j < t.outputs; ++j) detail::held_outputs<9, 1>(t, first, w, j);
      return;
    }
  }
  constexpr int outputs = Float::registers == 32 ? 8 : 4;
  for (; j + outputs <= t.outputs; j += outputs) detail::table_outputs<outputs>(t, first, j);
  for (; j + 2 <= t.outputs; j += 2) detail::table_outputs<2>(t, first, j);
  for (; j < t.outputs; ++j) detail::table_outputs<1>(t, first, j);
}

}  // namespace lamella::LAMELLA_ISA
