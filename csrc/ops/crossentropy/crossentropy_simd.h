// What the cross-entropies share.
#pragma once

#include "ops/crossentropy/crossentropy.h"
#include "simd/parallel_rows.h"
#include "simd/softmax_row.h"

namespace lamella::LAMELLA_ISA {

using crossentropy::Problem;
using crossentropy::SparseLabels;

constexpr float clip_low = 1e-7f;
constexpr float clip_high = static_cast<float>(1.0 - 1e-7);

// NaN stays NaN.
LAMELLA_INLINE Float clip(Float p) {
  return min(set(clip_high), max(set(clip_low), p));
}

LAMELLA_INLINE Mask clip_keeps(Float p) {
  return less_equal(set(clip_low), p) & less_equal(p, set(clip_high));
}

}  // namespace lamella::LAMELLA_ISA
