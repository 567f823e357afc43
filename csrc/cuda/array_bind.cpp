// lamella.cuda.Array for Python: what it is, its elements in and out, and views.
#include <pybind11/numpy.h>

#include <cmath>

#include "core/arguments.h"
#include "cuda/array.h"
#include "cuda/array_kernels.h"
#include "cuda/runtime.h"

namespace lamella::device {
namespace {

constexpr const char* name = "lamella.cuda.Array";

py::tuple tuple_of(const Shape& shape) {
  py::tuple result(shape.size());
  for (std::size_t i = 0; i < shape.size(); ++i) result[i] = shape[i];
  return result;
}

DType dtype_named(const char* op, py::handle object) {
  const std::string wanted =
      py::isinstance<py::str>(object)
          ? std::string(py::str(object))
          : std::string(py::str(py::dtype::from_args(py::reinterpret_borrow<py::object>(object))));
  for (const DType dtype :
       {DType::float32, DType::float16, DType::bfloat16, DType::float64, DType::int8, DType::int32,
        DType::int64, DType::uint8, DType::boolean}) {
    if (wanted == dtype_name(dtype)) return dtype;
  }
  throw TypeError(message(op, ": no elements of dtype ", wanted));
}

bool is_float(DType dtype) {
  return dtype == DType::float32 || dtype == DType::float16 || dtype == DType::bfloat16;
}

Shape shape_option(const char* op, py::handle object) {
  Shape shape;
  if (as_index(object)) {
    shape.push_back(int_option(op, "shape", object));
  } else {
    for (const py::handle size : py::iter(object)) shape.push_back(int_option(op, "shape", size));
  }
  return shape;
}

Array empty(py::object shape_, py::object dtype) {
  constexpr const char* op = "lamella.cuda.empty";
  const Shape shape = shape_option(op, shape_);
  for (const std::int64_t size : shape) {
    if (size < 0) throw ValueError(message(op, ": sizes must be at least 0, got ", size));
  }
  return new_array(op, dtype_named(op, dtype), shape);
}

Array zeros(py::object shape, py::object dtype) {
  Array array = empty(std::move(shape), std::move(dtype));
  fill_bytes(array.data, 0, static_cast<std::size_t>(array.bytes()));
  return array;
}

Array reshape(const Array& array, const py::args& sizes) {
  const bool one = sizes.size() == 1 && !as_index(sizes[0]);
  Shape shape = shape_option(name, one ? py::object(sizes[0]) : py::object(sizes));
  std::int64_t known = 1;
  std::int64_t* open = nullptr;
  for (std::int64_t& size : shape) {
    if (size == -1 && open == nullptr) {
      open = &size;
    } else if (size < 0) {
      throw ValueError(message(name, ": cannot reshape to ", shape_text(shape)));
    } else {
      known = checked_multiply(name, "the shape", known, size);
    }
  }
  if (open != nullptr) *open = known == 0 ? 0 : array.size / known;
  const std::int64_t all = open == nullptr ? known : known * *open;
  if (all != array.size) {
    throw ValueError(
        message(name, ": cannot reshape ", shape_text(array.shape), " to ", shape_text(shape)));
  }
  return view_of(array, 0, std::move(shape));
}

// What array[key] names: whole numbers, slices and an ellipsis, as NumPy's basic indexing.
struct Part {
  std::int64_t first = 0;
  Shape shape;
  std::vector<std::int64_t> strides;

  bool is_contiguous() const {
    std::int64_t expected = 1;
    for (std::size_t i = shape.size(); i-- > 0;) {
      if (shape[i] != 1 && strides[i] != expected) return false;
      expected *= shape[i];
    }
    return true;
  }
};

Part part_of(const Array& array, py::handle key) {
  const py::tuple keys = py::isinstance<py::tuple>(key)
                             ? py::reinterpret_borrow<py::tuple>(key)
                             : py::make_tuple(py::reinterpret_borrow<py::object>(key));
  const std::vector<std::int64_t> strides = strides_of(array.shape);
  const std::size_t axes = array.shape.size();
  std::size_t named = keys.size();
  for (const py::handle each : keys) named -= each.ptr() == Py_Ellipsis ? 1 : 0;
  if (named > axes || keys.size() - named > 1) {
    throw py::index_error(
        message(name, ": ", repr_text(key), " does not fit shape ", shape_text(array.shape)));
  }
  Part part;
  std::size_t axis = 0;
  const auto whole_axes = [&](std::size_t count) {
    for (; count > 0; --count, ++axis) {
      part.shape.push_back(array.shape[axis]);
      part.strides.push_back(strides[axis]);
    }
  };
  for (const py::handle each : keys) {
    if (each.ptr() == Py_Ellipsis) {
      whole_axes(axes - named);
      continue;
    }
    const std::int64_t extent = array.shape[axis];
    if (py::isinstance<py::slice>(each)) {
      py::ssize_t start = 0, stop = 0, step = 0, length = 0;
      if (!py::reinterpret_borrow<py::slice>(each).compute(extent, &start, &stop, &step, &length)) {
        throw py::error_already_set();
      }
      part.first += start * strides[axis];
      part.shape.push_back(length);
      part.strides.push_back(step * strides[axis]);
    } else {
      const py::object index = as_index(each);
      if (!index) {
        throw py::index_error(
            message(name, ": an index is an integer, a slice or ..., got ", repr_text(each)));
      }
      const std::int64_t i = int_option(name, "index", index);
      if (i < -extent || i >= extent) {
        throw py::index_error(message(name, ": index ", i, " is outside an axis of size ", extent));
      }
      part.first += (i < 0 ? i + extent : i) * strides[axis];
    }
    ++axis;
  }
  whole_axes(axes - axis);
  return part;
}

StridedCopy strided_copy(const Part& part, bool into_part) {
  StridedCopy copy = {};
  copy.axes = static_cast<int>(part.shape.size());
  copy.size = 1;
  const std::vector<std::int64_t> dense = strides_of(part.shape);
  for (std::size_t i = 0; i < part.shape.size(); ++i) {
    copy.size *= part.shape[i];
    copy.extent[i] = part.shape[i];
    copy.from_stride[i] = into_part ? dense[i] : part.strides[i];
    copy.to_stride[i] = into_part ? part.strides[i] : dense[i];
  }
  return copy;
}

const std::byte* element(const Array& array, std::int64_t i) {
  return array.data + i * static_cast<std::int64_t>(item_size(array.dtype));
}

// A view where the part lies in one piece, else a copy.
Array get_part(const Array& array, py::handle key) {
  Part part = part_of(array, key);
  if (part.is_contiguous()) return view_of(array, part.first, std::move(part.shape));
  Array copy = new_array(name, array.dtype, part.shape);
  copy_strided(name, strided_copy(part, false), item_size(array.dtype), element(array, part.first),
               copy.data);
  return copy;
}

Array transposed_by(const Array& array, const py::args& axes_) {
  const bool one = axes_.size() == 1 && !as_index(axes_[0]);
  const Shape axes = shape_option(name, one ? py::object(axes_[0]) : py::object(axes_));
  const auto ndim = static_cast<std::int64_t>(array.shape.size());
  std::vector<bool> seen(array.shape.size(), false);
  std::vector<std::size_t> order;
  for (const std::int64_t axis : axes) {
    const std::int64_t from = axis < 0 ? axis + ndim : axis;
    if (from < 0 || from >= ndim || seen[static_cast<std::size_t>(from)]) break;
    seen[static_cast<std::size_t>(from)] = true;
    order.push_back(static_cast<std::size_t>(from));
  }
  if (order.size() != array.shape.size() || order.size() != axes.size()) {
    throw ValueError(message(name, ": transpose takes each axis of shape ", shape_text(array.shape),
                             " once, got ", shape_text(axes)));
  }
  return transposed(name, array, order);
}

void expect_writable(const Array& array) {
  if (!array.is_writable) throw ValueError(message(name, ": the array is read-only"));
}

void fill_value(const Array& array, py::handle value) {
  expect_writable(array);
  const double number = value.cast<double>();
  if (number == 0.0 && !std::signbit(number)) {
    fill_bytes(array.data, 0, static_cast<std::size_t>(array.bytes()));
  } else if (array.dtype == DType::float32) {
    fill(name, array.size, static_cast<float>(number), reinterpret_cast<float*>(array.data));
  } else {
    throw TypeError(message(name, ": only float32 is filled with other numbers than 0"));
  }
}

Array copy(const Array& array) {
  Array result = new_array(name, array.dtype, array.shape);
  copy_on_device(result.data, array.data, static_cast<std::size_t>(array.bytes()));
  return result;
}

// Elements of an array of equal shape and dtype, on the device or NumPy's; or a number for all.
void assign(const Array& array, py::handle value) {
  expect_writable(array);
  if (py::isinstance<Array>(value)) {
    const Array& from = *value.cast<const Array*>();
    expect_shape(name, "value", from.shape.data(), static_cast<int>(from.shape.size()),
                 array.shape);
    if (from.dtype != array.dtype) {
      throw TypeError(message(name, ": value must be ", dtype_name(array.dtype), ", got ",
                              dtype_name(from.dtype)));
    }
    // Copies on the device run in any order.
    const bool overlaps =
        array.data < from.data + from.bytes() && from.data < array.data + array.bytes();
    const Array source = overlaps ? copy(from) : from;
    copy_on_device(array.data, source.data, static_cast<std::size_t>(array.bytes()));
  } else if (py::isinstance<py::array>(value) &&
             py::reinterpret_borrow<py::array>(value).ndim() > 0) {
    const auto given = py::reinterpret_borrow<py::array>(value);
    const Shape shape(given.shape(), given.shape() + given.ndim());
    expect_shape(name, "value", shape.data(), static_cast<int>(shape.size()), array.shape);
    if (std::string(py::str(given.dtype())) != dtype_name(array.dtype)) {
      throw TypeError(message(name, ": value must be ", dtype_name(array.dtype), ", got ",
                              std::string(py::str(given.dtype()))));
    }
    const py::array elements = py::array::ensure(given, py::array::c_style);
    copy_to_device(array.data, elements.data(), static_cast<std::size_t>(array.bytes()));
  } else {
    fill_value(array, value);
  }
}

void set_part(const Array& array, py::handle key, py::handle value) {
  Part part = part_of(array, key);
  if (part.is_contiguous()) return assign(view_of(array, part.first, std::move(part.shape)), value);
  expect_writable(array);
  const Array dense = new_array(name, array.dtype, part.shape);
  assign(dense, value);
  copy_strided(name, strided_copy(part, true), item_size(array.dtype), dense.data,
               const_cast<std::byte*>(element(array, part.first)));
}

Array astype(const Array& array, py::object dtype_) {
  const DType dtype = dtype_named(name, dtype_);
  if (dtype == array.dtype) return copy(array);
  if (!is_float(dtype) || !is_float(array.dtype)) {
    throw TypeError(message(name,
                            ": only float32, float16 and bfloat16 are converted into one "
                            "another, not ",
                            dtype_name(array.dtype), " into ", dtype_name(dtype)));
  }
  Array result = new_array(name, dtype, array.shape);
  convert(name, array.size, array.dtype, array.data, dtype, result.data);
  return result;
}

// NumPy's functions would wait for the device and copy, silently.
[[noreturn]] void refuse_numpy(const Array&, const py::args&, const py::kwargs&) {
  throw TypeError(message(name, ": is not converted by itself; numpy() copies it to the host"));
}

// DLPack's numbers for streams: 1 the legacy default stream, 2 each thread's own, -1 no waiting.
void let_consumer_wait(std::int64_t stream) {
  if (stream == 0 || stream < -1) {
    throw ValueError(message(name, ": stream must be a CUDA stream, 1, 2 or -1, got ", stream));
  }
  if (stream != -1) let_wait(static_cast<std::uintptr_t>(stream));
}

std::string repr(const Array& array) {
  return message("lamella.cuda.Array(shape=", shape_text(array.shape),
                 ", dtype=", dtype_name(array.dtype), ")");
}

py::object item(const Array& array) {
  if (array.size != 1) {
    throw ValueError(message(name, ": only an array of one element is a number, this has shape ",
                             shape_text(array.shape)));
  }
  return to_numpy(array).attr("item")();
}

#if !defined(LAMELLA_SIMT)
// https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html, version 3.
py::dict cuda_array_interface(const Array& array) {
  if (array.dtype == DType::bfloat16) {
    throw py::attribute_error("__cuda_array_interface__ has no bfloat16");
  }
  py::dict interface;
  interface["shape"] = tuple_of(array.shape);
  interface["typestr"] = py::dtype(dtype_name(array.dtype)).attr("str");
  interface["data"] =
      py::make_tuple(reinterpret_cast<std::uintptr_t>(array.data), !array.is_writable);
  interface["strides"] = py::none();
  interface["version"] = 3;
  interface["stream"] = stream_handle();
  return interface;
}
#endif

}  // namespace

void bind_array(py::module_& module) {
  py::class_<Array> type(module, "Array", py::module_local(),
                         R"(Elements in a GPU's memory, in C order.

Made by `lamella.cuda.asarray`, `zeros` and `empty`, by ops from other such arrays, and from other
libraries' arrays through DLPack. A part that lies in one piece is a view, another one a copy.)");
  type.def_property_readonly("shape", [](const Array& a) { return tuple_of(a.shape); })
      .def_property_readonly("ndim", [](const Array& a) { return a.shape.size(); })
      .def_property_readonly("size", [](const Array& a) { return a.size; })
      .def_property_readonly("nbytes", [](const Array& a) { return a.bytes(); })
      .def_property_readonly("dtype",
                             [](const Array& a) -> py::object {
                               if (a.dtype == DType::bfloat16) return py::str("bfloat16");
                               return py::dtype(dtype_name(a.dtype));
                             })
      .def("numpy", &to_numpy, "The elements as a new NumPy array; waits for the device.")
      .def("__array__", &refuse_numpy)
      .def("reshape", &reshape, "A view of the same elements.")
      .def("copy", &copy)
      .def("astype", &astype, py::arg("dtype"),
           "A copy with elements of another float type, rounded to nearest.")
      .def("fill", &fill_value, py::arg("value"))
      .def("item", &item)
      .def("transpose", &transposed_by, "A copy with its axes in this order.")
      .def("__getitem__", &get_part)
      .def("__setitem__", &set_part)
      .def("__len__",
           [](const Array& a) {
             if (a.shape.empty()) throw TypeError(message(name, ": of no axes has no length"));
             return a.shape[0];
           })
      .def("__float__", [](const Array& a) { return py::float_(item(a)); })
      .def("__repr__", &repr)
      .def("__dlpack_device__", [](const Array&) { return py::make_tuple(dlpack_device, 0); })
      .def(
          "__dlpack__",
          [](const Array& a, py::object stream, py::object max_version, py::object,
             py::object copy_) {
            // None is the legacy default stream.
            let_consumer_wait(stream.is_none() ? 1 : int_option(name, "stream", stream));
            const bool versioned =
                !max_version.is_none() && py::tuple(max_version)[0].cast<int>() >= 1;
            return to_dlpack(a, versioned, !copy_.is_none() && copy_.cast<bool>());
          },
          py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
          py::arg("dl_device") = py::none(), py::arg("copy") = py::none());
#if !defined(LAMELLA_SIMT)
  type.def_property_readonly("__cuda_array_interface__", &cuda_array_interface);
#endif
  // NumPy's functions and operators must not take an Array for a sequence of its rows.
  type.attr("__array_ufunc__") = py::none();
  type.attr("__hash__") = py::none();
  type.attr("__iter__") = py::none();

  module.def("asarray", &from_numpy, py::arg("array"));
  module.def("empty", &empty, py::arg("shape"), py::arg("dtype"));
  module.def("zeros", &zeros, py::arg("shape"), py::arg("dtype"));
  module.def("from_dlpack", &from_dlpack, py::arg("producer"));
  module.def("synchronize", [] {
    const ReleaseGil release;
    synchronize();
  });
}

}  // namespace lamella::device
