// Zoneout of the LSTM's states.
#pragma once

#include "ops/lstm/lstm.h"
#include "simd/vec.h"

namespace lamella::LAMELLA_ISA {

// Zoneout of one state for the units of a vector.
struct Zone {
  Float kept;  // the weight of the value before: 0 or 1, or the rate
  bool mask;

  LAMELLA_INLINE Zone(const lstm::Zoneout& z, std::int64_t at, std::int64_t count)
      : kept(set(z.rate)), mask(z.kept != nullptr) {
    if (!mask) return;
    float lanes[Float::width] = {};
    for (std::int64_t i = 0; i < count; ++i) lanes[i] = z.kept[at + i] != 0 ? 1.0f : 0.0f;
    kept = load(lanes);
  }
  LAMELLA_INLINE Float mix(Float before, Float after) const {
    if (mask) return select(less(zero(), kept), before, after);
    return kept * before + (set(1.0f) - kept) * after;
  }
  // The parts of a gradient that go to the value before and after.
  LAMELLA_INLINE Float of_before(Float d) const {
    return mask ? select(less(zero(), kept), d, zero()) : kept * d;
  }
  LAMELLA_INLINE Float of_after(Float d) const {
    return mask ? select(less(zero(), kept), zero(), d) : (set(1.0f) - kept) * d;
  }
};

}  // namespace lamella::LAMELLA_ISA
