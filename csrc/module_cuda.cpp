// lamella._cuda: the CUDA backend.
#include "cuda/module.h"

PYBIND11_MODULE(_cuda, module, py::mod_gil_not_used()) {
  module.doc() = "The CUDA backend of lamella: see lamella.ops for the documented functions.";
  lamella::device::bind_module(module);
}
