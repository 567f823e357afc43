#include "core/error.h"

#include <cstdio>

namespace lamella {

MemoryError::MemoryError(const char* op, std::size_t bytes_)
    : std::runtime_error(message(op, ": out of memory, could not allocate ", bytes_, " bytes")),
      bytes(bytes_) {}

namespace detail {

std::string text(double v) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%g", v);
  return buffer;
}

}  // namespace detail
}  // namespace lamella
