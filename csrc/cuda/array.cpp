#include "cuda/array.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <cstring>

#include "core/arguments.h"
#include "cuda/array_kernels.h"
#include "cuda/runtime.h"

namespace lamella {
namespace device {
namespace {

struct TypeEntry {
  DType dtype;
  const char* name;
  std::size_t bytes;
};

constexpr TypeEntry types[] = {
    {DType::float32, "float32", 4},   {DType::float16, "float16", 2},
    {DType::bfloat16, "bfloat16", 2}, {DType::float64, "float64", 8},
    {DType::int8, "int8", 1},         {DType::int32, "int32", 4},
    {DType::int64, "int64", 8},       {DType::uint8, "uint8", 1},
    {DType::boolean, "bool", 1},
};

const TypeEntry& entry(DType dtype) {
  return types[static_cast<std::size_t>(dtype)];
}

DType dtype_of(const py::dtype& dtype) {
  const std::string name = py::str(dtype);
  for (const TypeEntry& type : types) {
    if (name == type.name) return type.dtype;
  }
  throw TypeError(message("lamella.cuda.Array: no elements of dtype ", name));
}

const Array& array_of(py::handle object) {
  return *object.cast<const Array*>();
}

}  // namespace

std::size_t item_size(DType dtype) {
  return entry(dtype).bytes;
}

const char* dtype_name(DType dtype) {
  return entry(dtype).name;
}

Memory::Memory(const char* op, std::size_t bytes) : data_(pool_allocate(op, bytes)) {}

Memory::~Memory() {
  if (give_back_ != nullptr) {
    give_back_(owner_);
  } else {
    pool_release(data_);
  }
}

Array new_array(const char* op, DType dtype, const Shape& shape) {
  Array array;
  array.dtype = dtype;
  array.shape = shape;
  std::int64_t checked = static_cast<std::int64_t>(item_size(dtype));
  array.size = 1;
  for (const std::int64_t size : shape) {
    checked = checked_multiply(op, "the result", checked, size == 0 ? 1 : size);
    array.size *= size;
  }
  array.memory = std::make_shared<Memory>(op, static_cast<std::size_t>(array.bytes()));
  array.data = static_cast<std::byte*>(array.memory->data());
  return array;
}

Array view_of(const Array& array, std::int64_t first, Shape shape) {
  Array view = array;
  view.data += first * static_cast<std::int64_t>(item_size(array.dtype));
  view.shape = std::move(shape);
  view.size = 1;
  for (const std::int64_t size : view.shape) view.size *= size;
  return view;
}

std::vector<std::int64_t> strides_of(const Shape& shape) {
  std::vector<std::int64_t> strides(shape.size(), 1);
  for (std::size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  return strides;
}

Array from_numpy(py::handle object) {
  if (!py::isinstance<py::array>(object)) {
    throw TypeError(message("lamella.cuda.asarray: the argument must be a NumPy array, got ",
                            std::string(py::str(py::type::handle_of(object).attr("__name__")))));
  }
  const auto given = py::reinterpret_borrow<py::array>(object);
  const DType dtype = dtype_of(given.dtype());
  const py::array elements = py::array::ensure(given, py::array::c_style);
  if (!elements) throw py::error_already_set();
  Array array = new_array("lamella.cuda.asarray", dtype,
                          Shape(elements.shape(), elements.shape() + elements.ndim()));
  copy_to_device(array.data, elements.data(), static_cast<std::size_t>(array.bytes()));
  return array;
}

py::object to_numpy(const Array& array) {
  if (array.dtype == DType::bfloat16) {
    throw TypeError("lamella.cuda.Array: NumPy has no bfloat16; astype('float32') first");
  }
  py::array result(py::dtype(dtype_name(array.dtype)),
                   std::vector<py::ssize_t>(array.shape.begin(), array.shape.end()));
  copy_to_host(result.mutable_data(), array.data, static_cast<std::size_t>(array.bytes()));
  return result;
}

void* array_data(py::handle object) {
  return array_of(object).data;
}

std::int64_t array_size(py::handle object) {
  return array_of(object).size;
}

}  // namespace device

namespace {

using device::Array;
using device::DType;

ElementType element_type_of(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return ElementType::float32;
    case DType::int32:
      return ElementType::int32;
    case DType::int64:
      return ElementType::int64;
    case DType::uint8:
      return ElementType::uint8;
    case DType::boolean:
      return ElementType::boolean;
    default:
      return ElementType::other;
  }
}

const Array& array_of(py::handle object) {
  return *object.cast<const Array*>();
}

}  // namespace

const char* const array_kind = "a lamella.cuda.Array";

bool is_array(py::handle object) {
  return py::isinstance<Array>(object);
}

ArrayView view_array(py::handle object) {
  const Array& array = array_of(object);
  return {static_cast<int>(array.shape.size()), array.shape.data(), array.size,
          element_type_of(array.dtype),         array.data,         array.is_writable};
}

Shape shape_of(py::handle object) {
  return array_of(object).shape;
}

std::string type_text(py::handle object) {
  return device::dtype_name(array_of(object).dtype);
}

// Arrays are contiguous: what has to be copied is int32 on its way to int64.
template <>
py::object contiguous_copy<std::int64_t>(const char* op, py::handle object) {
  const Array& array = array_of(object);
  Array copy = device::new_array(op, DType::int64, array.shape);
  device::widen(op, array.size, reinterpret_cast<const std::int32_t*>(array.data),
                reinterpret_cast<std::int64_t*>(copy.data));
  return py::cast(std::move(copy));
}

template <class T>
py::object contiguous_copy(const char*, py::handle object) {
  return py::reinterpret_borrow<py::object>(object);
}
template py::object contiguous_copy<float>(const char*, py::handle);
template py::object contiguous_copy<std::uint8_t>(const char*, py::handle);

namespace {

// Axis i of `to` is axis order[i] of `from`, or the other way round where `back`.
void transpose(const char* op, const Array& from, const Array& to,
               const std::vector<std::size_t>& order, bool back) {
  const std::size_t axes = order.size();
  const std::vector<std::int64_t> from_stride = device::strides_of(from.shape);
  const std::vector<std::int64_t> to_stride = device::strides_of(to.shape);
  device::StridedCopy c = {};
  c.axes = static_cast<int>(axes);
  c.size = from.size;
  for (std::size_t i = 0; i < axes; ++i) {
    // In the order of the result, whose writes are then next to one another.
    const std::size_t at =
        back ? static_cast<std::size_t>(std::find(order.begin(), order.end(), i) - order.begin())
             : order[i];
    c.extent[i] = to.shape[i];
    c.from_stride[i] = from_stride[at];
    c.to_stride[i] = to_stride[i];
  }
  device::copy_strided(op, c, device::item_size(from.dtype), from.data, to.data);
}

}  // namespace

Array device::transposed(const char* op, const Array& array,
                         const std::vector<std::size_t>& order) {
  Shape shape;
  for (const std::size_t axis : order) shape.push_back(array.shape[axis]);
  Array copy = new_array(op, array.dtype, shape);
  transpose(op, array, copy, order, false);
  return copy;
}

py::object transposed_copy(const char* op, py::handle object,
                           const std::vector<std::size_t>& order) {
  return py::cast(device::transposed(op, array_of(object), order));
}

void copy_transposed(py::handle from, py::handle to, const std::vector<std::size_t>& order) {
  transpose("transpose", array_of(from), array_of(to), order, true);
}

py::object host_array(py::handle array) {
  if (is_array(array)) return device::to_numpy(array_of(array));
  if (py::isinstance<py::array>(array)) return py::reinterpret_borrow<py::object>(array);
  return {};
}

void fill_zeros(float* to, std::int64_t count) {
  device::fill_bytes(to, 0, static_cast<std::size_t>(count) * sizeof(float));
}

void copy_floats(const float* from, std::int64_t count, float* to) {
  device::copy_on_device(to, from, static_cast<std::size_t>(count) * sizeof(float));
}

FloatArray new_float_array(const char* op, const Shape& shape) {
  return py::reinterpret_steal<FloatArray>(
      py::cast(device::new_array(op, DType::float32, shape)).release());
}

ByteArray new_byte_array(const char* op, const Shape& shape) {
  return py::reinterpret_steal<ByteArray>(
      py::cast(device::new_array(op, DType::uint8, shape)).release());
}

}  // namespace lamella
