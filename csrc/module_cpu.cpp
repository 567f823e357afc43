// lamella._cpu: the CPU backend.
#include <pybind11/pybind11.h>

#include <cstdlib>
#include <string>

#include "core/arguments.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "function_table.h"

namespace py = pybind11;

namespace lamella {

void bind_ceiling(py::module_& module);

namespace {

void bind_core(py::module_& module) {
  module.def("cpu_isa", [] { return isa_name(current_isa()); });
  module.def("set_cpu_isa", &set_isa, py::arg("name"));
  module.def("supported_cpu_isas", [] {
    py::list names;
    for (Isa isa : supported_isas()) names.append(isa_name(isa));
    return names;
  });
  module.def("num_threads", &num_threads);
  module.def(
      "set_num_threads",
      [](py::object n) {
        const std::int64_t count = int_option("set_num_threads", "n", n);
        const ReleaseGil release;
        set_num_threads(count);
      },
      py::arg("n"));
}

}  // namespace
}  // namespace lamella

PYBIND11_MODULE(_cpu, module, py::mod_gil_not_used()) {
  using namespace lamella;
  module.doc() = "The CPU backend of lamella: see lamella.ops for the documented functions.";
  register_exceptions();
  if (const char* isa = std::getenv("LAMELLA_CPU_ISA"); isa != nullptr && isa[0] != '\0') {
    try {
      set_isa(isa);
    } catch (const ValueError& e) {
      throw py::value_error(std::string("LAMELLA_CPU_ISA: ") + e.what());
    }
  }
  bind_core(module);
  bind_ops(module);
  bind_memory(module);
  bind_ceiling(module);
}
