// What lamella._cuda and lamella._simt have in common: all of it.
#pragma once

#include "core/arguments.h"
#include "cuda/array.h"
#include "cuda/runtime.h"
#include "function_table.h"

namespace py = pybind11;

namespace lamella::device {

void bind_ceiling(py::module_& module);

inline py::dict device_properties() {
  const Properties& p = properties();
  py::dict result;
  result["name"] = p.name;
  result["capability"] = py::make_tuple(p.major, p.minor);
  result["multiprocessors"] = p.multiprocessors;
  result["shared_bytes"] = p.shared_bytes;
  result["memory_bytes"] = p.memory_bytes;
  result["l2_bytes"] = p.l2_bytes;
  return result;
}

inline void bind_module(py::module_& module) {
  register_exceptions();
  // (number of devices, why there is none)
  module.def("device_count", [] {
    std::string why;
    const int count = device_count(&why);
    return py::make_tuple(count, why);
  });
  module.def("properties", &device_properties);
  bind_array(module);
  bind_ceiling(module);
  bind_memory(module);
  bind_ops(module);
}

}  // namespace lamella::device
