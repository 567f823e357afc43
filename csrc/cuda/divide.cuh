// Division by a number that is the same for every thread: a multiplication and a shift instead of
// the some twenty instructions of a division (seventy with 64 bits).
#pragma once

#include "cuda/kernel.cuh"

namespace lamella::device {

// n / divisor for n >= 0, divisor >= 1. Below 2^31 the quotient is n * multiplier >> shift with
// multiplier = ceil(2^shift / divisor): its error, n / 2^shift at most, is too small to reach the
// next integer, as 2^shift >= 2^31 * divisor.
class Divisor {
 public:
  Divisor() = default;
  explicit Divisor(std::int64_t divisor) : divisor_(divisor) {
    if (divisor >> 31 != 0) return;
    while ((std::int64_t{1} << (shift_ - 31)) < divisor) ++shift_;
    const std::uint64_t power = std::uint64_t{1} << shift_;
    const std::uint64_t d = static_cast<std::uint64_t>(divisor);
    multiplier_ = static_cast<std::uint32_t>((power + d - 1) / d);
  }

  __device__ std::int64_t divide(std::int64_t n) const {
    if (multiplier_ != 0 && n >> 31 == 0) return divide_small(static_cast<int>(n));
    return n / divisor_;
  }
  // Where n and the divisor are known to be below 2^31.
  __device__ int divide_small(int n) const {
    const std::uint64_t product = std::uint64_t{multiplier_} * static_cast<std::uint32_t>(n);
    return static_cast<int>(product >> shift_);
  }
  // ceil(n / divisor)
  __device__ std::int64_t divide_up(std::int64_t n) const { return n == 0 ? 0 : divide(n - 1) + 1; }
  __host__ __device__ std::int64_t value() const { return divisor_; }

 private:
  std::int64_t divisor_ = 1;
  std::uint32_t multiplier_ = 0;  // 0: not below 2^31
  int shift_ = 31;
};

}  // namespace lamella::device
