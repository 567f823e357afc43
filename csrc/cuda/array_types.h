// lamella.cuda.Array as the bindings return it, for core/arrays.h.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lamella {

namespace device {
// The elements of the array that `object` is.
void* array_data(pybind11::handle object);
std::int64_t array_size(pybind11::handle object);
void copy_to_host(void* host, const void* device, std::size_t bytes);
}  // namespace device

// A lamella.cuda.Array with elements T.
template <class T>
class DeviceArray : public pybind11::object {
 public:
  using pybind11::object::object;
  static bool check_(pybind11::handle) { return true; }

  T* mutable_data() const { return ptr() ? static_cast<T*>(device::array_data(*this)) : nullptr; }
  std::int64_t size() const { return device::array_size(*this); }
};

using FloatArray = DeviceArray<float>;
using ByteArray = DeviceArray<std::uint8_t>;

// What code on the host reads of an array: a copy, made at the first use.
template <class T>
struct HostCopy {
  std::vector<T> elements;
};

template <class T>
const T* host_elements(HostCopy<T>& copy, const T* data, std::int64_t count) {
  if (copy.elements.empty() && count > 0) {
    copy.elements.resize(static_cast<std::size_t>(count));
    device::copy_to_host(copy.elements.data(), data, copy.elements.size() * sizeof(T));
  }
  return copy.elements.data();
}

}  // namespace lamella

namespace pybind11::detail {
template <class T>
struct handle_type_name<lamella::DeviceArray<T>> {
  static constexpr auto name = const_name("lamella.cuda.Array");
};
}  // namespace pybind11::detail
