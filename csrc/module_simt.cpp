// lamella._simt: the CUDA sources of lamella on an executor for the host: for tests.
#include "cuda/module.h"

PYBIND11_MODULE(_simt, module, py::mod_gil_not_used()) {
  module.doc() =
      "The CUDA sources of lamella on an executor for the host: for tests: see lamella.ops for the "
      "documented functions.";
  lamella::device::bind_module(module);
}
