// Division by a number that is the same for every thread: a multiplication and a shift instead of
// the some twenty instructions of a division, or with 64 bits the call of a function.
#pragma once

#include "cuda/kernel.cuh"

namespace lamella::device {

// n / divisor for n >= 0, divisor >= 1. With b bits, n < 2^b and 2^shift >= divisor, the quotient
// is n * multiplier / 2^(b + shift), rounded down, where multiplier = ceil(2^(b + shift) /
// divisor): what rounding the multiplier up adds is less than 1 / divisor. b is 63, or 31 for small
// numbers; n is doubled, so that the high half of the product is to be shifted by no more than
// `shift`.
class Divisor {
 public:
  Divisor() : Divisor(1) {}
  explicit Divisor(std::int64_t divisor) : divisor_(divisor), shift_(0) {
    const Wide d = static_cast<Wide>(divisor);
    while ((Wide{1} << shift_) < d) ++shift_;
    multiplier_ = static_cast<std::uint64_t>(((Wide{1} << (63 + shift_)) + d - 1) / d);
    small_multiplier_ = static_cast<std::uint32_t>(((Wide{1} << (31 + shift_)) + d - 1) / d);
  }

  __device__ std::int64_t divide(std::int64_t n) const {
    const std::uint64_t doubled = static_cast<std::uint64_t>(n) << 1;
    return static_cast<std::int64_t>(__umul64hi(doubled, multiplier_) >> shift_);
  }
  // Where n and the divisor are known to be below 2^31.
  __device__ int divide_small(int n) const {
    const std::uint64_t product =
        static_cast<std::uint64_t>(static_cast<std::uint32_t>(n) << 1) * small_multiplier_;
    return static_cast<int>(static_cast<std::uint32_t>(product >> 32) >> shift_);
  }
  // ceil(n / divisor)
  __device__ std::int64_t divide_up(std::int64_t n) const { return n == 0 ? 0 : divide(n - 1) + 1; }
  __host__ __device__ std::int64_t value() const { return divisor_; }

 private:
  __extension__ typedef unsigned __int128 Wide;

  std::int64_t divisor_;
  std::uint64_t multiplier_;
  std::uint32_t small_multiplier_;
  int shift_;
};

}  // namespace lamella::device
