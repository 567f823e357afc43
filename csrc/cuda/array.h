// lamella.cuda.Array: elements in the device's memory, in C order.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/arrays.h"
#include "cuda/dtype.h"

namespace lamella::device {

// A block of the pool, or memory that someone else lent and wants back.
class Memory {
 public:
  Memory(const char* op, std::size_t bytes);
  Memory(void* data, void (*give_back)(void*), void* owner)
      : data_(data), give_back_(give_back), owner_(owner) {}
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void* data() const { return data_; }

 private:
  void* data_;
  void (*give_back_)(void*) = nullptr;
  void* owner_ = nullptr;
};

// Arrays may share memory: views of parts that are contiguous.
struct Array {
  std::shared_ptr<Memory> memory;
  std::byte* data = nullptr;
  DType dtype = DType::float32;
  Shape shape;
  std::int64_t size = 0;
  bool is_writable = true;

  std::int64_t bytes() const { return size * static_cast<std::int64_t>(item_size(dtype)); }
};

// Undefined contents. ValueError where the size overflows.
Array new_array(const char* op, DType dtype, const Shape& shape);
// Of the same memory, from element `first` on.
Array view_of(const Array& array, std::int64_t first, Shape shape);
// Of an array of this shape in C order, in elements.
std::vector<std::int64_t> strides_of(const Shape& shape);
// From the elements of a NumPy array, which is of a dtype that Array has; else TypeError.
Array from_numpy(pybind11::handle array);
pybind11::object to_numpy(const Array& array);

// A copy with its axes in this order.
Array transposed(const char* op, const Array& array, const std::vector<std::size_t>& order);

void bind_array(pybind11::module_& module);

// __dlpack__ both ways. The device type is that of CUDA; the executor's arrays are on the CPU.
#if defined(LAMELLA_SIMT)
constexpr std::int32_t dlpack_device = 1;
#else
constexpr std::int32_t dlpack_device = 2;
#endif
pybind11::object to_dlpack(const Array& array, bool versioned, bool copy);
Array from_dlpack(pybind11::handle producer);

}  // namespace lamella::device
