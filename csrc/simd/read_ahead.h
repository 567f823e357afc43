// Ranges of memory that a later step reads, handed out line by line to loops that have load slots
// to spare: when the step comes, its data lies in L2.
#pragma once

#include "simd/vec.h"

namespace lamella::LAMELLA_ISA {

LAMELLA_INLINE void prefetch_to_l2(const float* p) {
  __builtin_prefetch(p, 0, 2);
}

constexpr std::int64_t line_floats = 16;

// A loop prefetches from + i * step at its i-th turn. With step 0 there is nothing to do.
struct Lines {
  const float* from;
  std::int64_t step;
};

class ReadAhead {
 public:
  void add(const float* data, std::int64_t floats) {
    if (count_ < most && floats > 0) ranges_[count_++] = {data, floats};
  }

  // For a loop of `turns`, of a tile whose own data is at `near`.
  Lines take(std::int64_t turns, const float* near) {
    while (at_ < count_ && ranges_[at_].floats <= 0) ++at_;
    if (at_ == count_) return {near, 0};
    Range& r = ranges_[at_];
    const Lines lines = {r.data, line_floats};
    r.data += turns * line_floats;
    r.floats -= turns * line_floats;
    return lines;
  }

 private:
  struct Range {
    const float* data;
    std::int64_t floats;
  };
  static constexpr int most = 3;
  Range ranges_[most] = {};
  int count_ = 0;
  int at_ = 0;
};

}  // namespace lamella::LAMELLA_ISA
