// Sums over blocks of pixels on many threads with one result: blocks are dealt to a number of
// partial sums that depends on the problem alone, and those are added in order.
#pragma once

#include "core/memory_pool.h"
#include "simd/task.h"

namespace lamella::LAMELLA_ISA {

class PartialSums {
 public:
  // A power of two, which most numbers of threads share evenly, and at most 8 MiB of partial sums.
  LAMELLA_INLINE PartialSums(std::int64_t blocks, std::int64_t size, float* result)
      : count(power_of_two(min_i(min_i(blocks, 16), (2 << 20) / max_i(size, 1)))),
        blocks_(blocks),
        size_(size),
        result_(result),
        partial_("conv2d", count > 1 ? count * size : 0) {}

  LAMELLA_INLINE std::int64_t begin(std::int64_t sum) const { return sum * blocks_ / count; }
  LAMELLA_INLINE float* data(std::int64_t sum) const {
    return count > 1 ? partial_.get() + sum * size_ : result_;
  }
  LAMELLA_INLINE void reduce() const {
    if (count == 1) return;
    parallel_chunks(size_, 4096, [&](std::int64_t begin_, std::int64_t end) {
      std::int64_t i = begin_;
      for (; i + Float::width <= end; i += Float::width) {
        Float s = load(data(0) + i);
        for (std::int64_t q = 1; q < count; ++q) s = s + load(data(q) + i);
        store(result_ + i, s);
      }
      if (i == end) return;
      Float s = load_n(data(0) + i, end - i);
      for (std::int64_t q = 1; q < count; ++q) s = s + load_n(data(q) + i, end - i);
      store_n(result_ + i, s, end - i);
    });
  }

  const std::int64_t count;

 private:
  // The largest one up to `most`, at least 1.
  static LAMELLA_INLINE std::int64_t power_of_two(std::int64_t most) {
    std::int64_t power = 1;
    while (2 * power <= most) power *= 2;
    return power;
  }

  std::int64_t blocks_, size_;
  float* result_;
  Scratch<float> partial_;
};

}  // namespace lamella::LAMELLA_ISA
