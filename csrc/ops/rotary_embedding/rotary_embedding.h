// Rotary embedding: pairs of a head's elements are turned by an angle of their position.
//
//   y1 = x1 cos - x2 sin
//   y2 = x2 cos + x1 sin
//
// x1 and x2 are the first and the second half of a head's E elements, or its even and its odd
// elements. Backward turns dy back: the same with -sin. cos and sin are constants.
//
// J. Su, Y. Lu, S. Pan, A. Murtadha, B. Wen, Y. Liu: "RoFormer: enhanced transformer with rotary
// position embedding", 2021.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace lamella::rotary_embedding {

struct Problem {
  const char* op;
  std::int64_t positions;  // N S
  std::int64_t heads;      // A
  std::int64_t half;       // E / 2
  std::int64_t period;     // positions after which cos and sin repeat: S, or N S
  const float* cos;        // (period, half)
  const float* sin;
  bool interleaved;  // pairs are even and odd elements
  bool backward;     // turns the other way
};

struct Kernels {
  // x and y (positions, heads, 2 half).
  void (*turn)(const Problem&, const float* x, float* y);
};

LAMELLA_DECLARE_KERNELS()

}  // namespace lamella::rotary_embedding
