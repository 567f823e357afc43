// Overflow-checked sizes. Everything that multiplies sizes a caller chose goes through here before
// anything is allocated or indexed with the product.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "core/error.h"

namespace lamella {

// The product of the sizes as long as product * element_size fits 63 bits; else ValueError.
inline std::int64_t checked_product(const char* op, const char* what,
                                    std::initializer_list<std::int64_t> sizes,
                                    std::int64_t element_size = 4) {
  std::int64_t product = element_size;
  bool overflow = false;
  bool empty = false;
  for (std::int64_t size : sizes) {
    if (size == 0) empty = true;
    overflow = __builtin_mul_overflow(product, size == 0 ? 1 : size, &product) || overflow;
  }
  if (overflow) throw ValueError(message(op, ": the size of ", what, " overflows 63 bits"));
  return empty ? 0 : product / element_size;
}

inline std::int64_t checked_add(const char* op, const char* what, std::int64_t a, std::int64_t b) {
  std::int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) {
    throw ValueError(message(op, ": the size of ", what, " overflows 63 bits"));
  }
  return sum;
}

inline std::int64_t checked_multiply(const char* op, const char* what, std::int64_t a,
                                     std::int64_t b) {
  std::int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) {
    throw ValueError(message(op, ": the size of ", what, " overflows 63 bits"));
  }
  return product;
}

}  // namespace lamella
