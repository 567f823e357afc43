#include <algorithm>
#include <cstring>

#include "core/arguments.h"

namespace lamella {
namespace {

py::array numpy_array(py::handle array) {
  return py::reinterpret_borrow<py::array>(array);
}

bool is_native(const py::dtype& dtype) {
  const char order = dtype.byteorder();
  return order == '=' || order == '|';
}

ElementType element_type_of(const py::dtype& dtype) {
  const int number = dtype.num();
  if (number == py::dtype::num_of<bool>()) return ElementType::boolean;
  if (number == py::dtype::num_of<std::uint8_t>()) return ElementType::uint8;
  if (!is_native(dtype)) return ElementType::other;
  if (number == py::dtype::num_of<float>()) return ElementType::float32;
  if (dtype.kind() != 'i') return ElementType::other;
  return dtype.itemsize() == 8   ? ElementType::int64
         : dtype.itemsize() == 4 ? ElementType::int32
                                 : ElementType::other;
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

py::array transposed_view(py::handle array, const std::vector<std::size_t>& order) {
  py::list axes;
  for (const std::size_t axis : order) axes.append(axis);
  return array.attr("transpose")(axes);
}

}  // namespace

const char* const array_kind = "a NumPy array";

bool is_array(py::handle object) {
  return py::isinstance<py::array>(object);
}

ArrayView view_array(py::handle object) {
  const py::array array = numpy_array(object);
  static_assert(sizeof(py::ssize_t) == sizeof(std::int64_t));
  ArrayView view;
  view.ndim = static_cast<int>(array.ndim());
  view.shape = reinterpret_cast<const std::int64_t*>(array.shape());
  view.size = static_cast<std::int64_t>(array.size());
  view.type = element_type_of(array.dtype());
  const bool in_place =
      view.type != ElementType::other && (array.flags() & py::array::c_style) != 0 &&
      reinterpret_cast<std::uintptr_t>(array.data()) % static_cast<std::size_t>(array.itemsize()) ==
          0;
  view.data = in_place ? const_cast<void*>(array.data()) : nullptr;
  view.is_writable = array.writeable();
  return view;
}

Shape shape_of(py::handle object) {
  const py::array array = numpy_array(object);
  return Shape(array.shape(), array.shape() + array.ndim());
}

std::string type_text(py::handle array) {
  return py::str(numpy_array(array).dtype());
}

template <class T>
py::object contiguous_copy(const char* op, py::handle array) {
  py::array_t<T> copy = new_array<T>(op, shape_of(array), "an array");
  copy[py::ellipsis()] = array;  // NumPy knows all layouts, and widens int32
  return copy;
}
template py::object contiguous_copy<float>(const char*, py::handle);
template py::object contiguous_copy<std::uint8_t>(const char*, py::handle);
template py::object contiguous_copy<std::int64_t>(const char*, py::handle);

py::object transposed_copy(const char* op, py::handle array,
                           const std::vector<std::size_t>& order) {
  return contiguous_copy<float>(op, transposed_view(array, order));
}

void copy_transposed(py::handle from, py::handle to, const std::vector<std::size_t>& order) {
  transposed_view(to, order)[py::ellipsis()] = from;
}

py::object host_array(py::handle array) {
  return is_array(array) ? py::reinterpret_borrow<py::object>(array) : py::object();
}

void fill_zeros(float* to, std::int64_t count) {
  std::fill_n(to, count, 0.0f);
}

void copy_floats(const float* from, std::int64_t count, float* to) {
  std::copy_n(from, count, to);
}

FloatArray new_float_array(const char* op, const Shape& shape) {
  return new_array<float>(op, shape);
}

ByteArray new_byte_array(const char* op, const Shape& shape) {
  return new_array<std::uint8_t>(op, shape);
}

}  // namespace lamella
