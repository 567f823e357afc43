// Python arguments in, arrays out: the one place where what a caller passed is checked and turned
// into pointers, sizes and options. Used by the *_bind.cpp files only, which are the same for every
// backend: what its arrays are says core/arrays.h.
//
// An array that is C-contiguous, aligned and in native byte order is read in place; any other
// layout is copied, once all else is checked. Wrong type or dtype: TypeError. Wrong value:
// ValueError.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/arrays.h"
#include "core/check.h"
#include "core/error.h"
#include "core/gil.h"
#include "core/memory_pool.h"

namespace lamella {

std::string shape_text(const std::int64_t* shape, int ndim);
std::string shape_text(const Shape& shape);

// An input array, kept alive by this object; so is its copy, if it needs one.
template <class T>
class Input {
 public:
  Input() = default;
  // Of an array whose elements are T's, or int32 for an Input of int64; `view` is of the same.
  Input(const char* op, py::object array, const ArrayView& view);
  Input(const char* op, const py::object& array) : Input(op, array, view_array(array)) {}

  int ndim = 0;
  const std::int64_t* shape = nullptr;
  std::int64_t size = 0;

  // False when an optional argument is None.
  explicit operator bool() const { return static_cast<bool>(array_); }
  std::string shape_text() const { return lamella::shape_text(shape, ndim); }

  // The elements in C order, null for None. The first call copies an array that cannot be read in
  // place: whoever calls it has checked the shapes, holds the interpreter's lock, and has written
  // nothing yet. MemoryError, naming the op and the bytes, where there is no room for the copy.
  const T* data() const {
    if (data_ == nullptr && array_) copy();
    return data_;
  }
  bool is_read_in_place() const { return data_ != nullptr && !copy_; }
  // The same elements for code that runs on the host: checks of indices, tables. What lies on a
  // device is copied from there, once, which waits for the device.
  const T* host_data() const;

 private:
  void copy() const;

  const char* op_ = nullptr;
  py::object array_;
  mutable py::object copy_;
  mutable const T* data_ = nullptr;
  mutable HostCopy<T> host_;
};

using FloatInput = Input<float>;

FloatInput float_input(const char* op, const char* name, py::handle object);
// None gives an empty Input.
FloatInput optional_float_input(const char* op, const char* name, py::handle object);
// bool arrays (NumPy bool_), read as bytes.
Input<std::uint8_t> bool_input(const char* op, const char* name, py::handle object);
// uint8 arrays: what a forward pass saved for its backward pass.
Input<std::uint8_t> byte_input(const char* op, const char* name, py::handle object);
// int32 or int64 labels and indices; int32 is widened into a copy.
Input<std::int64_t> index_input(const char* op, const char* name, py::handle object);

// Arrays that only the host reads, as NumPy's: in a module of device kernels both NumPy's, which
// are read where they are, and device arrays, which are copied.
py::array_t<bool, py::array::c_style> host_bools(const char* op, const char* name,
                                                 py::handle object);
// int32 or int64.
py::array_t<std::int64_t, py::array::c_style> host_indices(const char* op, const char* name,
                                                           py::handle object);

template <class T>
void expect_ndim(const char* op, const char* name, const Input<T>& array, int ndim,
                 const char* axes) {
  if (array.ndim != ndim) {
    throw ValueError(message(op, ": ", name, " must have ", ndim, " axes ", axes, ", got shape ",
                             array.shape_text()));
  }
}

// `why` ends the message: "conv2d: bias must have shape (8,) (one value a filter), got (7,)".
void expect_shape(const char* op, const char* name, const std::int64_t* actual, int ndim,
                  const Shape& expected, const char* why = "");
template <class T>
void expect_shape(const char* op, const char* name, const Input<T>& array, const Shape& expected,
                  const char* why = "") {
  expect_shape(op, name, array.shape, array.ndim, expected, why);
}

// A new array of the pool's memory; its contents are undefined. The size is overflow-checked.
FloatArray new_float_array(const char* op, const Shape& shape);
ByteArray new_byte_array(const char* op, const Shape& shape);
// An array that an op changes or writes: float32, C-contiguous, aligned, writable; never copied.
struct Output {
  float* data = nullptr;
  std::int64_t size = 0;
  py::object array;

  Shape shape() const { return shape_of(array); }
};
Output writable_array(const char* op, const char* name, py::handle object);
// The caller's `out` array after checking its shape, or a new one where `object` is None.
Output output_array(const char* op, const char* name, py::handle object, const Shape& shape);

// The argument as a Python int; null where it is none. Arrays have __index__ too, and raise
// TypeError there unless they hold a single integer.
py::object as_index(py::handle object);
std::int64_t int_option(const char* op, const char* name, py::handle object);
std::int64_t positive_int_option(const char* op, const char* name, py::handle object);
// An int for both, or a tuple or list of two.
std::array<std::int64_t, 2> int_pair_option(const char* op, const char* name, py::handle object);
std::array<std::int64_t, 2> positive_int_pair_option(const char* op, const char* name,
                                                     py::handle object);
// A finite number.
double real_option(const char* op, const char* name, py::handle object);
bool bool_option(const char* op, const char* name, py::handle object);
std::uint64_t seed_option(const char* op, const char* name, py::handle object);
// Whether an argument is this string of ASCII letters.
bool is_text(py::handle object, const char* text);
// The repr of an argument, for error messages, cut at 80 characters.
std::string repr_text(py::handle object);

}  // namespace lamella
