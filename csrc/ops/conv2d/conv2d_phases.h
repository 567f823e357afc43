// The axes of a convolution as taps: forward, and by phases for the input gradient.
#pragma once

#include "ops/conv2d/conv2d_taps.h"

namespace lamella::LAMELLA_ISA {

// `offsets` has room for one entry a tap.
LAMELLA_INLINE TapAxis forward_axis(const WindowAxis& a, std::int64_t* offsets) {
  for (std::int64_t p = 0; p < a.kernel; ++p) offsets[p] = p * a.dilation - a.pad_before;
  return {a.kernel, offsets, a.stride, a.input, a.output};
}

// Input positions residue, residue + stride, ... of one axis: which taps reach them, and from
// where.
struct Phase {
  std::int64_t residue;
  TapAxis axis;             // over the positions of dz
  const std::int64_t* tap;  // the tap's number in the kernel
};

// Input position residue + stride * u gets, through tap p, the output (residue + stride * u +
// pad_before - p * dilation) / stride where that is whole. Descending taps make ascending offsets.
// `storage` has room for two entries a tap.
LAMELLA_INLINE Phase phase_axis(const WindowAxis& a, std::int64_t residue, std::int64_t* storage) {
  std::int64_t* offsets = storage;
  std::int64_t* taps = storage + a.kernel;
  std::int64_t count = 0;
  for (std::int64_t p = a.kernel - 1; p >= 0; --p) {
    const std::int64_t distance = residue + a.pad_before - p * a.dilation;
    if (distance % a.stride != 0) continue;
    offsets[count] = distance / a.stride;
    taps[count++] = p;
  }
  const std::int64_t positions = ceil_div(a.input - residue, a.stride);
  return {residue, {count, offsets, 1, a.output, positions}, taps};
}

// body(h, w) for each phase of the input that has positions at all. `storage` has room for two
// entries for each tap of either axis.
template <class Body>
LAMELLA_INLINE void for_each_phase(const conv2d::Problem& p, std::int64_t* storage,
                                   const Body& body) {
  for (std::int64_t a = 0; a < min_i(p.height.stride, p.height.input); ++a) {
    for (std::int64_t b = 0; b < min_i(p.width.stride, p.width.input); ++b) {
      body(phase_axis(p.height, a, storage), phase_axis(p.width, b, storage + 2 * p.height.kernel));
    }
  }
}

}  // namespace lamella::LAMELLA_ISA
