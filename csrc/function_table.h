// What every backend's module has: the same functions with the same signatures.
#pragma once

#include <pybind11/pybind11.h>

namespace lamella {

// The ops; see lamella.ops for the documented functions.
void bind_ops(pybind11::module_& module);
// memory_stats and empty_cache: of the pool behind arrays and scratch.
void bind_memory(pybind11::module_& module);
// C++ exceptions become the Python types of their names.
void register_exceptions();

}  // namespace lamella
