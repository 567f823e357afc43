// embedding: rows of a table by their number.
//
//   y[i] = table[indices[i]]                              i in [0, count)
//
// Backward, the table's gradient alone: row r sums the dy of its index in the order of i,
//
//   dtable[r] = sum over i with indices[i] = r of dy[i]     0 where there is none
//
// indices (count), each in [0, rows); table, dtable (rows, columns); y, dy (count, columns), all in
// C order. Results overlap no argument.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace lamella::embedding {

struct Problem {
  std::int64_t count;
  std::int64_t rows;
  std::int64_t columns;
};

struct Kernels {
  void (*forward)(const Problem& p, const std::int64_t* indices, const float* table, float* y);
  void (*backward)(const Problem& p, const std::int64_t* indices, const float* dy, float* dtable);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::embedding
