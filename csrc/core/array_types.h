// NumPy's arrays, for core/arrays.h.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>

namespace lamella {

using FloatArray = pybind11::array_t<float>;
using ByteArray = pybind11::array_t<std::uint8_t>;

// The host reads NumPy's arrays where they are.
template <class T>
struct HostCopy {};

template <class T>
const T* host_elements(HostCopy<T>&, const T* data, std::int64_t) {
  return data;
}

}  // namespace lamella
