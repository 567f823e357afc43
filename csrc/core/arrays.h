// What the arrays of a backend are: NumPy's in lamella._cpu, lamella.cuda.Array's in a module of
// device kernels. The rest of a binding is the same for all of them.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#if defined(LAMELLA_DEVICE)
#include "cuda/array_types.h"
#else
#include "core/array_types.h"
#endif

namespace lamella {

namespace py = pybind11;

using Shape = std::vector<std::int64_t>;

// The element types that ops take.
enum class ElementType { float32, int32, int64, uint8, boolean, other };

// A caller's array; what it points to lives as long as the array.
struct ArrayView {
  int ndim;
  const std::int64_t* shape;
  std::int64_t size;
  ElementType type;
  void* data;        // null where the elements cannot be read in place as they are, in C order
  bool is_writable;  // where data is not null
};

// "a NumPy array": what an op expects, for messages.
extern const char* const array_kind;

bool is_array(py::handle object);
ArrayView view_array(py::handle array);
Shape shape_of(py::handle array);
// "float64", "bfloat16": for messages.
std::string type_text(py::handle array);

// `array`, of any layout, as a new contiguous one of elements T. MemoryError, naming `op`.
template <class T>
py::object contiguous_copy(const char* op, py::handle array);
// A copy with its axes in this order.
py::object transposed_copy(const char* op, py::handle array, const std::vector<std::size_t>& order);
// Elements of `from`, whose axis i is axis order[i] of `to`, go there.
void copy_transposed(py::handle from, py::handle to, const std::vector<std::size_t>& order);

// `array` as NumPy's: itself, or a copy of what lies on a device. Null for what is no array.
py::object host_array(py::handle array);

// On memory of the backend's arrays.
void fill_zeros(float* to, std::int64_t count);
void copy_floats(const float* from, std::int64_t count, float* to);

}  // namespace lamella
