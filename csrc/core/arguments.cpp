#include "core/arguments.h"

#include <cmath>
#include <cstring>

namespace lamella {
namespace {

std::string type_name(py::handle object) {
  return py::str(py::type::handle_of(object).attr("__name__"));
}

ArrayView checked_view(const char* op, const char* name, py::handle object) {
  if (!is_array(object)) {
    throw TypeError(message(op, ": ", name, " must be ", array_kind, ", got ", type_name(object)));
  }
  return view_array(object);
}

[[noreturn]] void wrong_type(const char* op, const char* name, py::handle array,
                             const char* wanted) {
  throw TypeError(
      message(op, ": ", name, " must be ", wanted, ", got an array of ", type_text(array)));
}

ArrayView float_view(const char* op, const char* name, py::handle object) {
  const ArrayView view = checked_view(op, name, object);
  if (view.type != ElementType::float32) wrong_type(op, name, object, "float32");
  return view;
}

template <class T>
Input<T> input_of(const char* op, const char* name, py::handle object, ElementType type,
                  const char* wanted) {
  const ArrayView view = checked_view(op, name, object);
  if (view.type != type) wrong_type(op, name, object, wanted);
  return {op, py::reinterpret_borrow<py::object>(object), view};
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
constexpr ElementType element_type = ElementType::float32;
template <>
constexpr ElementType element_type<std::uint8_t> = ElementType::uint8;
template <>
constexpr ElementType element_type<std::int64_t> = ElementType::int64;

template <class T>
Input<T>::Input(const char* op, py::object array, const ArrayView& view)
    : ndim(view.ndim), shape(view.shape), size(view.size), op_(op) {
  // An empty array may have a null pointer, which here means "not copied yet".
  static const T nothing{};
  const bool is_bytes = sizeof(T) == 1 && view.type == ElementType::boolean;
  if (size == 0) {
    data_ = &nothing;
  } else if (view.type == element_type<T> || is_bytes) {
    data_ = static_cast<const T*>(view.data);
  }
  array_ = std::move(array);
}

template <class T>
void Input<T>::copy() const {
  copy_ = contiguous_copy<T>(op_, array_);
  data_ = static_cast<const T*>(view_array(copy_).data);
}

template <class T>
const T* Input<T>::host_data() const {
  return array_ ? host_elements(host_, data(), size) : nullptr;
}

template class Input<float>;
template class Input<std::uint8_t>;
template class Input<std::int64_t>;

FloatInput float_input(const char* op, const char* name, py::handle object) {
  return input_of<float>(op, name, object, ElementType::float32, "float32");
}

FloatInput optional_float_input(const char* op, const char* name, py::handle object) {
  return object.is_none() ? FloatInput{} : float_input(op, name, object);
}

Input<std::uint8_t> bool_input(const char* op, const char* name, py::handle object) {
  return input_of<std::uint8_t>(op, name, object, ElementType::boolean, "bool");
}

Input<std::uint8_t> byte_input(const char* op, const char* name, py::handle object) {
  return input_of<std::uint8_t>(op, name, object, ElementType::uint8, "uint8");
}

Input<std::int64_t> index_input(const char* op, const char* name, py::handle object) {
  const ArrayView view = checked_view(op, name, object);
  if (view.type != ElementType::int32 && view.type != ElementType::int64) {
    wrong_type(op, name, object, "int32 or int64");
  }
  return {op, py::reinterpret_borrow<py::object>(object), view};
}

namespace {

py::array host_elements_of(const char* op, const char* name, py::handle object) {
  const py::object array = host_array(object);
  if (!array) {
    throw TypeError(message(op, ": ", name, " must be ", array_kind, ", got ", type_name(object)));
  }
  return py::reinterpret_borrow<py::array>(array);
}

[[noreturn]] void wrong_host_type(const char* op, const char* name, const py::array& array,
                                  const char* wanted) {
  throw TypeError(message(op, ": ", name, " must be ", wanted, ", got an array of ",
                          std::string(py::str(array.dtype()))));
}

}  // namespace

py::array_t<bool, py::array::c_style> host_bools(const char* op, const char* name,
                                                 py::handle object) {
  const py::array array = host_elements_of(op, name, object);
  if (array.dtype().kind() != 'b') wrong_host_type(op, name, array, "bool");
  return array;
}

py::array_t<std::int64_t, py::array::c_style> host_indices(const char* op, const char* name,
                                                           py::handle object) {
  const py::array array = host_elements_of(op, name, object);
  const py::dtype dtype = array.dtype();
  const bool is_native = dtype.byteorder() == '=' || dtype.byteorder() == '|';
  if (dtype.kind() != 'i' || dtype.itemsize() < 4 || !is_native) {
    wrong_host_type(op, name, array, "int32 or int64");
  }
  return array.attr("astype")(py::dtype::of<std::int64_t>(), py::arg("copy") = false);
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

Output writable_array(const char* op, const char* name, py::handle object) {
  const ArrayView view = float_view(op, name, object);
  // An array without elements may have a null pointer too.
  if (view.data != nullptr && !view.is_writable) {
    throw ValueError(message(op, ": ", name, " is written in place but is read-only"));
  }
  if (view.data == nullptr && view.size > 0) {
    throw ValueError(
        message(op, ": ", name, " is written in place and must be C-contiguous and aligned"));
  }
  Output output;
  output.data = static_cast<float*>(view.data);
  output.size = view.size;
  output.array = py::reinterpret_borrow<py::object>(object);
  return output;
}

Output output_array(const char* op, const char* name, py::handle object, const Shape& shape) {
  if (object.is_none()) {
    FloatArray array = new_float_array(op, shape);
    Output output;
    output.data = array.mutable_data();
    output.size = static_cast<std::int64_t>(array.size());
    output.array = std::move(array);
    return output;
  }
  Output output = writable_array(op, name, object);
  const ArrayView view = view_array(output.array);
  expect_shape(op, name, view.shape, view.ndim, shape);
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
