// DLPack, the exchange of arrays between libraries without a copy:
// https://dmlc.github.io/dlpack/latest/, ABI version 1, and the unversioned form before it.
#include <algorithm>

#include "core/arguments.h"
#include "cuda/array.h"
#include "cuda/runtime.h"

namespace lamella::device {
namespace {

// The ABI's structs, by its names' meaning.
struct DlDevice {
  std::int32_t type;
  std::int32_t id;
};
struct DlType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};
struct DlTensor {
  void* data;
  DlDevice device;
  std::int32_t ndim;
  DlType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct Managed {
  DlTensor tensor;
  void* context;
  void (*deleter)(Managed*);
};
struct Versioned {
  std::uint32_t major, minor;
  void* context;
  void (*deleter)(Versioned*);
  std::uint64_t flags;
  DlTensor tensor;
};

constexpr std::uint64_t read_only = 1;
constexpr std::uint64_t is_copied = 2;
constexpr const char* plain_name = "dltensor";
constexpr const char* versioned_name = "dltensor_versioned";
constexpr const char* op = "lamella.cuda.from_dlpack";

struct TypeCode {
  DType dtype;
  std::uint8_t code;
};
constexpr TypeCode codes[] = {
    {DType::float32, 2},  {DType::float16, 2}, {DType::float64, 2},
    {DType::bfloat16, 4}, {DType::int8, 0},    {DType::int32, 0},
    {DType::int64, 0},    {DType::uint8, 1},   {DType::boolean, 6},
};

// What an exported tensor keeps alive.
struct Export {
  Array array;
  Shape strides;
};

void describe(DlTensor& tensor, Export* owner) {
  const Array& a = owner->array;
  tensor.data = a.data;
  tensor.device = {dlpack_device, 0};
  tensor.ndim = static_cast<std::int32_t>(a.shape.size());
  for (const TypeCode& each : codes) {
    if (each.dtype != a.dtype) continue;
    tensor.dtype = {each.code, static_cast<std::uint8_t>(item_size(a.dtype) * 8), 1};
  }
  tensor.shape = owner->array.shape.data();
  tensor.strides = owner->strides.data();
  tensor.byte_offset = 0;
}

template <class Tensor>
void destroy(Tensor* tensor) {
  // The pool gives the memory to later work of our stream; the consumer's may not have ended.
  synchronize_all();
  delete static_cast<Export*>(tensor->context);
  delete tensor;
}

// A capsule that nobody took out still owns its tensor; who takes it out renames it.
template <class Tensor>
void destroy_capsule(PyObject* capsule) {
  const char* const name = PyCapsule_GetName(capsule);
  if (name == nullptr || std::string(name).rfind("used", 0) == 0) return;
  auto* const tensor = static_cast<Tensor*>(PyCapsule_GetPointer(capsule, name));
  if (tensor != nullptr && tensor->deleter != nullptr) tensor->deleter(tensor);
}

template <class Tensor>
py::object capsule_of(Tensor* tensor, const char* name) {
  PyObject* const capsule = PyCapsule_New(tensor, name, &destroy_capsule<Tensor>);
  if (capsule == nullptr) {
    tensor->deleter(tensor);
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(capsule);
}

DType dtype_of(const DlType& type) {
  if (type.lanes == 1) {
    for (const TypeCode& each : codes) {
      if (each.code == type.code && item_size(each.dtype) * 8 == type.bits) return each.dtype;
    }
  }
  throw TypeError(message(op, ": no elements of DLPack's type code ", int{type.code}, ", ",
                          int{type.bits}, " bits"));
}

template <class Tensor>
void give_back(void* owner) {
  auto* const tensor = static_cast<Tensor*>(owner);
  if (tensor->deleter == nullptr) return;
  // Whose memory it is may use it again at once, without waiting for our stream.
  synchronize_all();
  const py::gil_scoped_acquire lock;
  tensor->deleter(tensor);
}

Array array_of(const DlTensor& tensor) {
  if (tensor.device.type != dlpack_device) {
    throw ValueError(message(op, ": the array is not on a device of this kind (DLPack device type ",
                             int{tensor.device.type}, ", expected ", int{dlpack_device}, ")"));
  }
  if (tensor.device.id != 0) {
    throw ValueError(message(op, ": the array is on device ", int{tensor.device.id},
                             ", lamella runs on device 0"));
  }
  Array array;
  array.dtype = dtype_of(tensor.dtype);
  array.shape.assign(tensor.shape, tensor.shape + tensor.ndim);
  array.size = 1;
  for (const std::int64_t size : array.shape) {
    array.size = checked_multiply(op, "the array", array.size, size);
  }
  if (tensor.strides != nullptr && array.size > 0) {
    std::int64_t stride = 1;
    for (std::int32_t i = tensor.ndim; i-- > 0;) {
      if (tensor.shape[i] != 1 && tensor.strides[i] != stride) {
        throw ValueError(message(op, ": the array must be C-contiguous, got strides ",
                                 shape_text(tensor.strides, tensor.ndim), " for shape ",
                                 shape_text(array.shape)));
      }
      stride *= tensor.shape[i];
    }
  }
  array.data = static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
  if (reinterpret_cast<std::uintptr_t>(array.data) % item_size(array.dtype) != 0) {
    throw ValueError(message(op, ": the array is not aligned to its elements"));
  }
  return array;
}

// The tensor of a capsule, which is then empty.
template <class Tensor>
Array take(PyObject* capsule, const char* used_name, std::uint64_t flags, Tensor* tensor) {
  Array array = array_of(tensor->tensor);
  array.is_writable = (flags & read_only) == 0;
  array.memory = std::make_shared<Memory>(array.data, &give_back<Tensor>, tensor);
  PyCapsule_SetName(capsule, used_name);
  return array;
}

}  // namespace

py::object to_dlpack(const Array& array, bool versioned, bool copies) {
  auto owner = std::make_unique<Export>();
  owner->array = array;
  if (copies) {
    owner->array = new_array("lamella.cuda.Array", array.dtype, array.shape);
    copy_on_device(owner->array.data, array.data, static_cast<std::size_t>(array.bytes()));
  }
  owner->strides.assign(array.shape.size(), 1);
  for (std::size_t i = array.shape.size(); i-- > 1;) {
    owner->strides[i - 1] = owner->strides[i] * array.shape[i];
  }
  if (!versioned) {
    if (!owner->array.is_writable) {
      throw py::buffer_error("a read-only array needs a consumer of DLPack 1.0");
    }
    auto tensor = std::make_unique<Managed>();
    describe(tensor->tensor, owner.get());
    tensor->deleter = &destroy<Managed>;
    tensor->context = owner.release();
    return capsule_of(tensor.release(), plain_name);
  }
  auto tensor = std::make_unique<Versioned>();
  describe(tensor->tensor, owner.get());
  tensor->major = 1;
  tensor->minor = 0;
  tensor->flags = (owner->array.is_writable ? 0 : read_only) | (copies ? is_copied : 0);
  tensor->deleter = &destroy<Versioned>;
  tensor->context = owner.release();
  return capsule_of(tensor.release(), versioned_name);
}

Array from_dlpack(py::handle producer) {
  if (!py::hasattr(producer, "__dlpack__")) {
    throw TypeError(message(op, ": the argument has no __dlpack__, got ",
                            std::string(py::str(py::type::handle_of(producer).attr("__name__")))));
  }
  const py::tuple device = producer.attr("__dlpack_device__")();
  if (device[0].cast<int>() != dlpack_device) {
    throw ValueError(message(op, ": the array is not on a device of this kind (DLPack device type ",
                             device[0].cast<int>(), ", expected ", int{dlpack_device}, ")"));
  }
  py::dict options;
  if (const std::uintptr_t stream = stream_handle(); stream != 0) options["stream"] = stream;
  py::object capsule;
  try {
    py::dict with_version = options.attr("copy")();
    with_version["max_version"] = py::make_tuple(1, 0);
    capsule = producer.attr("__dlpack__")(**with_version);
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
    capsule = producer.attr("__dlpack__")(**options);  // a producer from before version 1
  }
  PyObject* const raw = capsule.ptr();
  if (PyCapsule_IsValid(raw, versioned_name)) {
    auto* const tensor = static_cast<Versioned*>(PyCapsule_GetPointer(raw, versioned_name));
    if (tensor->major > 1) {
      throw ValueError(message(op, ": DLPack version ", std::int64_t{tensor->major},
                               " is newer than the one known here, 1"));
    }
    return take(raw, "used_dltensor_versioned", tensor->flags, tensor);
  }
  if (PyCapsule_IsValid(raw, plain_name)) {
    auto* const tensor = static_cast<Managed*>(PyCapsule_GetPointer(raw, plain_name));
    return take(raw, "used_dltensor", 0, tensor);
  }
  throw TypeError(message(op, ": __dlpack__ did not return a DLPack capsule"));
}

}  // namespace lamella::device
