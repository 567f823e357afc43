// What the two directions of layer_norm share: the statistics of a row in registers, and how rows
// become tasks.
#pragma once

#include "core/memory_pool.h"
#include "ops/layer_norm/layer_norm.h"
#include "simd/row_sums.h"

namespace lamella::LAMELLA_ISA {

// A row this long is shared by the threads where there are fewer than `few_rows`, a piece a task.
constexpr std::int64_t long_row = 65536;
constexpr std::int64_t few_rows = 8;
constexpr std::int64_t row_piece = 16384;

LAMELLA_INLINE bool rows_are_shared(const layer_norm::Rows& shape) {
  return shape.size >= long_row && shape.rows < few_rows;
}

// n = (s - center) scale + shift; without a center n = s scale.
struct RowNormal {
  Float center;
  Float scale;
  Float shift;

  template <bool centered>
  LAMELLA_INLINE Float of(Float s) const {
    return centered ? fma(s - center, scale, shift) : s * scale;
  }
};

template <bool centered>
LAMELLA_INLINE RowNormal row_normal(const layer_norm::Statistics& saved, std::int64_t row) {
  if constexpr (!centered) return {zero(), set(saved.scale[row]), zero()};
  return {set(saved.center[row]), set(saved.scale[row]), set(saved.shift[row])};
}

// An array argument of one value a column, or `absent` repeated where there is none.
class ColumnValues {
 public:
  LAMELLA_INLINE ColumnValues(const layer_norm::Rows& shape, const float* given, float absent)
      : filled_(shape.op, given == nullptr ? shape.size : 0), values_(given) {
    if (given != nullptr) return;
    for_vectors(0, shape.size, [&](auto at) { at.put(filled_.get(), set(absent)); });
    values_ = filled_.get();
  }
  LAMELLA_INLINE const float* get() const { return values_; }

 private:
  Scratch<float> filled_;
  const float* values_;
};

}  // namespace lamella::LAMELLA_ISA
