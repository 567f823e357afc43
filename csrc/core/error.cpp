#include "core/error.h"

#include <cstdio>

namespace lamella::detail {

std::string text(double v) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%g", v);
  return buffer;
}

}  // namespace lamella::detail
