// The exceptions of the C++ side; function_table.cpp translates each to the Python type of its
// name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace lamella {

struct ValueError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct TypeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct IndexError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct MemoryError : std::runtime_error {
  MemoryError(const char* op, std::size_t bytes);
  std::size_t bytes;
};

namespace detail {
inline std::string text(const std::string& s) {
  return s;
}
inline std::string text(const char* s) {
  return s;
}
inline std::string text(std::int64_t v) {
  return std::to_string(v);
}
inline std::string text(int v) {
  return std::to_string(v);
}
inline std::string text(std::size_t v) {
  return std::to_string(v);
}
std::string text(double v);
}  // namespace detail

// message("conv2d: kernel must have ", 4, " axes") and so on.
template <class... Parts>
std::string message(const Parts&... parts) {
  std::string s;
  (s.append(detail::text(parts)), ...);
  return s;
}

}  // namespace lamella
