// lamella._cpu: the CPU backend's function table, nothing else.
#include <pybind11/pybind11.h>

#include <cstdlib>
#include <string>

#include "core/arguments.h"
#include "core/isa.h"
#include "core/memory_pool.h"
#include "core/parallel.h"

namespace py = pybind11;

namespace lamella {
void bind_activation(py::module_& module);
void bind_additive_attention(py::module_& module);
void bind_attention(py::module_& module);
void bind_batch_norm(py::module_& module);
void bind_ceiling(py::module_& module);
void bind_conv2d(py::module_& module);
void bind_crossentropy(py::module_& module);
void bind_dense(py::module_& module);
void bind_dropout(py::module_& module);
void bind_elementwise(py::module_& module);
void bind_embedding(py::module_& module);
void bind_feed_forward(py::module_& module);
void bind_group_norm(py::module_& module);
void bind_gru(py::module_& module);
void bind_layer_norm(py::module_& module);
void bind_lstm(py::module_& module);
void bind_multi_head_attention(py::module_& module);
void bind_optimizer(py::module_& module);
void bind_pool2d(py::module_& module);
void bind_rotary_embedding(py::module_& module);
void bind_simple_rnn(py::module_& module);
void bind_softmax(py::module_& module);

namespace {

template <class Exception>
void translate(PyObject* type, const Exception& exception) {
  PyErr_SetString(type, exception.what());
}

void register_exceptions() {
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const ValueError& e) {
      translate(PyExc_ValueError, e);
    } catch (const TypeError& e) {
      translate(PyExc_TypeError, e);
    } catch (const IndexError& e) {
      translate(PyExc_IndexError, e);
    } catch (const MemoryError& e) {
      translate(PyExc_MemoryError, e);
    }
  });
}

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
  module.def("memory_stats", [] {
    const PoolStatistics s = pool_statistics();
    py::dict stats;
    stats["bytes_in_use"] = s.bytes_in_use;
    stats["bytes_cached"] = s.bytes_cached;
    stats["peak_bytes_in_use"] = s.peak_bytes_in_use;
    stats["system_allocations"] = s.system_allocations;
    return stats;
  });
  module.def("empty_cache", &pool_trim);
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
  bind_activation(module);
  bind_additive_attention(module);
  bind_attention(module);
  bind_batch_norm(module);
  bind_ceiling(module);
  bind_conv2d(module);
  bind_crossentropy(module);
  bind_dense(module);
  bind_dropout(module);
  bind_elementwise(module);
  bind_embedding(module);
  bind_feed_forward(module);
  bind_group_norm(module);
  bind_gru(module);
  bind_layer_norm(module);
  bind_lstm(module);
  bind_multi_head_attention(module);
  bind_optimizer(module);
  bind_pool2d(module);
  bind_rotary_embedding(module);
  bind_simple_rnn(module);
  bind_softmax(module);
}
