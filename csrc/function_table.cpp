#include "function_table.h"

#include "core/arguments.h"
#include "core/memory_pool.h"
#if defined(LAMELLA_DEVICE)
#include "cuda/runtime.h"
#endif

namespace lamella {

void bind_activation(py::module_& module);
void bind_additive_attention(py::module_& module);
void bind_attention(py::module_& module);
void bind_batch_norm(py::module_& module);
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

void bind_ops(py::module_& module) {
  bind_activation(module);
  bind_additive_attention(module);
  bind_attention(module);
  bind_batch_norm(module);
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

void bind_memory(py::module_& module) {
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

namespace {

template <class Exception>
void translate(PyObject* type, const Exception& exception) {
  PyErr_SetString(type, exception.what());
}

#if defined(LAMELLA_DEVICE)
// lamella's own exceptions are Python's, so that they exist where the module does not.
void translate_to(const char* name, const std::exception& exception) {
  const py::object type = py::module_::import("lamella.errors").attr(name);
  PyErr_SetString(type.ptr(), exception.what());
}
#endif

}  // namespace

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
#if defined(LAMELLA_DEVICE)
    } catch (const MemoryError& e) {
      translate_to("OutOfMemoryError", e);
    } catch (const CudaError& e) {
      translate_to("CudaError", e);
#else
    } catch (const MemoryError& e) {
      translate(PyExc_MemoryError, e);
#endif
    }
  });
}

}  // namespace lamella
