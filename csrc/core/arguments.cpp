#include "core/arguments.h"

#include <cmath>
#include <cstring>

namespace lamella {
namespace {

std::string type_name(py::handle object) {
  return py::str(py::type::handle_of(object).attr("__name__"));
}

py::array as_array(const char* op, const char* name, py::handle object) {
  if (!py::isinstance<py::array>(object)) {
    throw TypeError(message(op, ": ", name, " must be a NumPy array, got ", type_name(object)));
  }
  return py::reinterpret_borrow<py::array>(object);
}

bool is_readable_in_place(const py::array& array, std::size_t item) {
  return (array.flags() & py::array::c_style) != 0 &&
         reinterpret_cast<std::uintptr_t>(array.data()) % item == 0;
}

[[noreturn]] void wrong_dtype(const char* op, const char* name, const py::array& array,
                              const char* wanted) {
  throw TypeError(message(op, ": ", name, " must be ", wanted, ", got an array of ",
                          std::string(py::str(array.dtype()))));
}

bool is_native(const py::dtype& dtype) {
  const char order = dtype.byteorder();
  return order == '=' || order == '|';
}

template <class T>
py::array_t<T> new_array(const char* op, const Shape& shape, const char* what = "the result") {
  std::int64_t bytes = sizeof(T);
  std::int64_t checked = sizeof(T);
  for (const std::int64_t size : shape) {
    bytes *= size;
    checked = checked_multiply(op, what, checked, size == 0 ? 1 : size);
    if (size == 0) bytes = 0;
  }
  void* block = pool_allocate(op, static_cast<std::size_t>(bytes));
  py::capsule owner(block, [](void* p) { pool_release(p); });
  return py::array_t<T>(shape, static_cast<const T*>(block), owner);
}

}  // namespace

std::string shape_text(const std::int64_t* shape, int ndim) {
  std::string s = "(";
  for (int i = 0; i < ndim; ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + (ndim == 1 ? ",)" : ")");
}

std::string shape_text(const Shape& shape) {
  return shape_text(shape.data(), static_cast<int>(shape.size()));
}

template <class T>
Input<T>::Input(const char* op, py::array array)
    : ndim(static_cast<int>(array.ndim())),
      shape(reinterpret_cast<const std::int64_t*>(array.shape())),
      size(static_cast<std::int64_t>(array.size())),
      op_(op) {
  static_assert(sizeof(py::ssize_t) == sizeof(std::int64_t));
  // An empty array may have a null pointer, which here means "not copied yet".
  static const T nothing{};
  if (size == 0) {
    data_ = &nothing;
  } else if (array.itemsize() == sizeof(T) && is_readable_in_place(array, alignof(T))) {
    data_ = static_cast<const T*>(array.data());
  }
  array_ = std::move(array);
}

template <class T>
void Input<T>::copy() const {
  py::array_t<T> copy = new_array<T>(op_, Shape(shape, shape + ndim), "an array");
  T* const elements = copy.mutable_data();
  copy[py::ellipsis()] = array_;  // NumPy knows all layouts, and widens int32
  copy_ = std::move(copy);
  data_ = elements;
}

template class Input<float>;
template class Input<std::uint8_t>;
template class Input<std::int64_t>;

FloatInput float_input(const char* op, const char* name, py::handle object) {
  py::array array = as_array(op, name, object);
  const py::dtype dtype = array.dtype();
  if (dtype.num() != py::dtype::num_of<float>() || !is_native(dtype)) {
    wrong_dtype(op, name, array, "float32");
  }
  return {op, std::move(array)};
}

FloatInput optional_float_input(const char* op, const char* name, py::handle object) {
  return object.is_none() ? FloatInput{} : float_input(op, name, object);
}

Input<std::uint8_t> bool_input(const char* op, const char* name, py::handle object) {
  py::array array = as_array(op, name, object);
  if (array.dtype().num() != py::dtype::num_of<bool>()) wrong_dtype(op, name, array, "bool");
  return {op, std::move(array)};
}

Input<std::uint8_t> byte_input(const char* op, const char* name, py::handle object) {
  py::array array = as_array(op, name, object);
  if (array.dtype().num() != py::dtype::num_of<std::uint8_t>()) {
    wrong_dtype(op, name, array, "uint8");
  }
  return {op, std::move(array)};
}

Input<std::int64_t> index_input(const char* op, const char* name, py::handle object) {
  py::array array = as_array(op, name, object);
  const py::dtype dtype = array.dtype();
  const bool is_int = dtype.kind() == 'i' && (dtype.itemsize() == 4 || dtype.itemsize() == 8);
  if (!is_int || !is_native(dtype)) wrong_dtype(op, name, array, "int32 or int64");
  return {op, std::move(array)};
}

void expect_shape(const char* op, const char* name, const std::int64_t* actual, int ndim,
                  const Shape& expected, const char* why) {
  bool equal = ndim == static_cast<int>(expected.size());
  for (int i = 0; equal && i < ndim; ++i)
    equal = actual[i] == expected[static_cast<std::size_t>(i)];
  if (equal) return;
  throw ValueError(message(op, ": ", name, " must have shape ", shape_text(expected),
                           why[0] ? message(" (", why, ")") : std::string(), ", got ",
                           shape_text(actual, ndim)));
}

py::array_t<float> new_float_array(const char* op, const Shape& shape) {
  return new_array<float>(op, shape);
}

py::array_t<std::uint8_t> new_byte_array(const char* op, const Shape& shape) {
  return new_array<std::uint8_t>(op, shape);
}

Output writable_array(const char* op, const char* name, py::handle object) {
  py::array array = as_array(op, name, object);
  const py::dtype dtype = array.dtype();
  if (dtype.num() != py::dtype::num_of<float>() || !is_native(dtype)) {
    wrong_dtype(op, name, array, "float32");
  }
  if (!array.writeable()) {
    throw ValueError(message(op, ": ", name, " is written in place but is read-only"));
  }
  if (!is_readable_in_place(array, alignof(float))) {
    throw ValueError(
        message(op, ": ", name, " is written in place and must be C-contiguous and aligned"));
  }
  Output output;
  output.data = static_cast<float*>(array.mutable_data());
  output.size = static_cast<std::int64_t>(array.size());
  output.array = std::move(array);
  return output;
}

Output output_array(const char* op, const char* name, py::handle object, const Shape& shape) {
  if (object.is_none()) {
    py::array_t<float> array = new_float_array(op, shape);
    Output output;
    output.data = array.mutable_data();
    output.size = static_cast<std::int64_t>(array.size());
    output.array = std::move(array);
    return output;
  }
  Output output = writable_array(op, name, object);
  const auto array = py::reinterpret_borrow<py::array>(output.array);
  expect_shape(op, name, reinterpret_cast<const std::int64_t*>(array.shape()),
               static_cast<int>(array.ndim()), shape);
  return output;
}

bool is_text(py::handle object, const char* text) {
  return PyUnicode_Check(object.ptr()) && PyUnicode_CompareWithASCIIString(object.ptr(), text) == 0;
}

std::string repr_text(py::handle object) {
  const py::str repr = py::repr(object);
  const Py_ssize_t length = PyUnicode_GetLength(repr.ptr());
  const auto part = py::reinterpret_steal<py::object>(
      PyUnicode_Substring(repr.ptr(), 0, length <= 80 ? length : 77));
  if (!part) throw py::error_already_set();
  // A __repr__ of the caller's may hold surrogates, which UTF-8 has not.
  const auto bytes = py::reinterpret_steal<py::bytes>(
      PyUnicode_AsEncodedString(part.ptr(), "utf-8", "backslashreplace"));
  if (!bytes) throw py::error_already_set();
  return std::string(bytes) + (length <= 80 ? "" : "...");
}

py::object as_index(py::handle object) {
  if (PyBool_Check(object.ptr()) || !PyIndex_Check(object.ptr())) return {};
  auto index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!index) {
    if (!PyErr_ExceptionMatches(PyExc_TypeError)) throw py::error_already_set();
    PyErr_Clear();
  }
  return index;
}

std::int64_t int_option(const char* op, const char* name, py::handle object) {
  const py::object index = as_index(object);
  if (!index) {
    throw ValueError(message(op, ": ", name, " must be an integer, got ", repr_text(object)));
  }
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0) {
    throw ValueError(message(op, ": ", name, " does not fit 63 bits: ", repr_text(object)));
  }
  if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

std::int64_t positive_int_option(const char* op, const char* name, py::handle object) {
  const std::int64_t value = int_option(op, name, object);
  if (value < 1) throw ValueError(message(op, ": ", name, " must be at least 1, got ", value));
  return value;
}

std::array<std::int64_t, 2> int_pair_option(const char* op, const char* name, py::handle object) {
  if (PyTuple_Check(object.ptr()) || PyList_Check(object.ptr())) {
    const auto sequence = py::reinterpret_borrow<py::sequence>(object);
    if (sequence.size() != 2) {
      throw ValueError(
          message(op, ": ", name, " must be an integer or two integers, got ", repr_text(object)));
    }
    return {int_option(op, name, sequence[0]), int_option(op, name, sequence[1])};
  }
  if (!as_index(object)) {
    throw ValueError(
        message(op, ": ", name, " must be an integer or two integers, got ", repr_text(object)));
  }
  const std::int64_t value = int_option(op, name, object);
  return {value, value};
}

std::array<std::int64_t, 2> positive_int_pair_option(const char* op, const char* name,
                                                     py::handle object) {
  const auto pair = int_pair_option(op, name, object);
  if (pair[0] < 1 || pair[1] < 1) {
    throw ValueError(message(op, ": ", name, " must be at least 1, got ", repr_text(object)));
  }
  return pair;
}

double real_option(const char* op, const char* name, py::handle object) {
  const double value = PyBool_Check(object.ptr()) ? NAN : PyFloat_AsDouble(object.ptr());
  if (PyErr_Occurred())
    PyErr_Clear();
  else if (std::isfinite(value))
    return value;
  throw ValueError(message(op, ": ", name, " must be a finite number, got ", repr_text(object)));
}

bool bool_option(const char* op, const char* name, py::handle object) {
  if (object.ptr() == Py_True) return true;
  if (object.ptr() == Py_False) return false;
  throw ValueError(message(op, ": ", name, " must be True or False, got ", repr_text(object)));
}

std::uint64_t seed_option(const char* op, const char* name, py::handle object) {
  if (const py::object index = as_index(object)) {
    const unsigned long long value = PyLong_AsUnsignedLongLong(index.ptr());
    if (!PyErr_Occurred()) return value;
    PyErr_Clear();
  }
  throw ValueError(
      message(op, ": ", name, " must be an integer in [0, 2**64), got ", repr_text(object)));
}

}  // namespace lamella
