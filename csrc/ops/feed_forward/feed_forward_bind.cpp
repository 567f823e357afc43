#include "core/argument_gradients.h"
#include "ops/activation/activation_bind.h"
#include "ops/dense/dense.h"
#include "ops/elementwise/elementwise.h"
#include "ops/feed_forward/feed_forward.h"

namespace lamella {
namespace {

constexpr const char* op = "feed_forward";

struct Arguments {
  FloatInput x, kernel, output_kernel, bias, output_bias, gate_kernel, gate_bias;
  activation::Activation f;
  std::int64_t rows, inputs, hidden, results;

  Shape shape(std::int64_t last) const {
    Shape s(x.shape, x.shape + x.ndim);
    s.back() = last;
    return s;
  }
  std::int64_t hidden_size() const { return rows * hidden; }
  // All elements, asked for while the interpreter's lock is held.
  void read() const {
    for (const FloatInput* a :
         {&x, &kernel, &output_kernel, &bias, &output_bias, &gate_kernel, &gate_bias}) {
      a->data();
    }
  }
};

Arguments read_arguments(const py::tuple& arrays, py::handle activation) {
  Arguments a;
  a.x = float_input(op, "x", arrays[0]);
  a.kernel = float_input(op, "kernel", arrays[1]);
  a.output_kernel = float_input(op, "output_kernel", arrays[2]);
  a.bias = optional_float_input(op, "bias", arrays[3]);
  a.output_bias = optional_float_input(op, "output_bias", arrays[4]);
  a.gate_kernel = optional_float_input(op, "gate_kernel", arrays[5]);
  a.gate_bias = optional_float_input(op, "gate_bias", arrays[6]);
  a.f = activation_option(op, activation);
  if (a.x.ndim < 1) {
    throw ValueError(
        message(op, ": x must have at least 1 axis (..., D), got shape ", a.x.shape_text()));
  }
  expect_ndim(op, "kernel", a.kernel, 2, "(D, F)");
  expect_ndim(op, "output_kernel", a.output_kernel, 2, "(F, Dout)");
  a.inputs = a.x.shape[a.x.ndim - 1];
  a.hidden = a.kernel.shape[1];
  a.results = a.output_kernel.shape[1];
  expect_shape(op, "kernel", a.kernel, {a.inputs, a.hidden}, "as many rows as x has features");
  expect_shape(op, "output_kernel", a.output_kernel, {a.hidden, a.results},
               "as many rows as kernel has columns");
  if (a.inputs == 0 || a.hidden == 0 || a.results == 0) {
    throw ValueError(message(op, ": kernels must not be empty, got ", a.kernel.shape_text(),
                             " and ", a.output_kernel.shape_text()));
  }
  if (a.bias) expect_shape(op, "bias", a.bias, {a.hidden}, "one value a column of kernel");
  if (a.output_bias) {
    expect_shape(op, "output_bias", a.output_bias, {a.results}, "one value a result");
  }
  if (a.gate_kernel) {
    expect_shape(op, "gate_kernel", a.gate_kernel, {a.inputs, a.hidden}, "that of kernel");
  }
  if (a.gate_bias) {
    if (!a.gate_kernel) throw ValueError(message(op, ": gate_bias needs a gate_kernel"));
    expect_shape(op, "gate_bias", a.gate_bias, {a.hidden}, "one value a column of gate_kernel");
  }
  a.rows = a.x.size / a.inputs;
  checked_product(op, "the hidden layer", {a.rows, a.hidden});
  return a;
}

// (y, saved): saved is (a or z, g, h), or None.
py::tuple forward(py::tuple arrays, py::object activation_, bool save) {
  const Arguments a = read_arguments(arrays, activation_);
  const bool gated = static_cast<bool>(a.gate_kernel);
  const bool keeps_z = save && activation::needs_input(a.f.kind);
  FloatArray y = new_float_array(op, a.shape(a.results));
  FloatArray activated = new_float_array(op, a.shape(a.hidden));
  py::object z = py::none();
  py::object gate = py::none();
  py::object product = py::none();
  float* z_data = nullptr;
  float* gate_data = nullptr;
  float* hidden = activated.mutable_data();
  float* const activated_data = hidden;
  const auto keep = [&](py::object& object) {
    FloatArray array = new_float_array(op, a.shape(a.hidden));
    float* const data = array.mutable_data();
    object = std::move(array);
    return data;
  };
  if (keeps_z) z_data = keep(z);
  if (gated) {
    gate_data = keep(gate);
    // What backward can make again, or nobody needs, is overwritten.
    if (save && !keeps_z) hidden = keep(product);
  }
  a.read();
  float* const result = y.mutable_data();
  {
    const ReleaseGil released;
    dense::kernels().forward({a.rows, a.inputs, a.hidden, a.x.data(), a.kernel.data(),
                              a.bias.data(), a.f, z_data, activated_data});
    if (gated) {
      dense::kernels().forward({a.rows,
                                a.inputs,
                                a.hidden,
                                a.x.data(),
                                a.gate_kernel.data(),
                                a.gate_bias.data(),
                                {},
                                nullptr,
                                gate_data});
      feed_forward::kernels().gate(a.hidden_size(), activated_data, gate_data, hidden);
    }
    dense::kernels().forward({a.rows,
                              a.hidden,
                              a.results,
                              hidden,
                              a.output_kernel.data(),
                              a.output_bias.data(),
                              {},
                              nullptr,
                              result});
  }
  if (!save) return py::make_tuple(y, py::none());
  const py::object of_activation = keeps_z ? z : py::object(activated);
  const py::object h = product.is_none() ? py::object(activated) : product;
  return py::make_tuple(y, py::make_tuple(of_activation, gate, h));
}

py::tuple backward(py::object dy_, py::tuple arrays, py::tuple saved, py::object activation_,
                   py::tuple needs, py::tuple out) {
  const Arguments a = read_arguments(arrays, activation_);
  const FloatInput of_activation = float_input(op, "activation", saved[0]);
  const FloatInput gate = optional_float_input(op, "gate", saved[1]);
  const FloatInput hidden = float_input(op, "hidden", saved[2]);
  const FloatInput dy = float_input(op, "dy", dy_);
  expect_shape(op, "dy", dy, a.shape(a.results));
  expect_shape(op, "activation", of_activation, a.shape(a.hidden));
  expect_shape(op, "hidden", hidden, a.shape(a.hidden));
  if (gate) expect_shape(op, "gate", gate, a.shape(a.hidden));
  const ArgumentGradients gradients(op,
                                    {{"x", &a.x},
                                     {"kernel", &a.kernel},
                                     {"output_kernel", &a.output_kernel},
                                     {"bias", &a.bias},
                                     {"output_bias", &a.output_bias},
                                     {"gate_kernel", &a.gate_kernel},
                                     {"gate_bias", &a.gate_bias}},
                                    needs, out);
  gradients.expect_separate_from({&dy, &of_activation, &gate, &hidden});
  a.read();
  const float* const gradient = dy.data();
  const float* const kept = of_activation.data();
  const float* const kept_gate = gate.data();
  const float* const kept_hidden = hidden.data();
  const std::int64_t size = a.hidden_size();
  {
    const ReleaseGil released;
    const Scratch<float> dh(op, size);
    const Scratch<float> dg(op, gate ? size : 0);
    dense::kernels().backward({a.rows, a.hidden, a.results, gradient, kept_hidden,
                               a.output_kernel.data(), dh.get(), gradients.data(2),
                               gradients.data(4)});
    if (gate) {
      const bool has_z = activation::needs_input(a.f.kind);
      const Scratch<float> again(op, has_z ? size : 0);
      if (has_z) activation::kernels().forward(a.f, size, kept, again.get());
      feed_forward::kernels().gate_backward(size, dh.get(), has_z ? again.get() : kept, kept_gate,
                                            dh.get(), dg.get());
    }
    activation::kernels().backward_fused(a.f, size, dh.get(), kept, dh.get());
    dense::kernels().backward({a.rows, a.inputs, a.hidden, dh.get(), a.x.data(), a.kernel.data(),
                               gradients.data(0), gradients.data(1), gradients.data(3)});
    if (gate) {
      const Scratch<float> dx(op, gradients.data(0) == nullptr ? 0 : a.x.size);
      dense::kernels().backward({a.rows, a.inputs, a.hidden, dg.get(), a.x.data(),
                                 a.gate_kernel.data(), dx.get(), gradients.data(5),
                                 gradients.data(6)});
      if (dx.get() != nullptr) {
        elementwise::kernels().accumulate(a.x.size, dx.get(), gradients.data(0));
      }
    }
  }
  return gradients.result();
}

}  // namespace

void bind_feed_forward(py::module_& module) {
  module.def("feed_forward_forward", &forward, py::arg("arrays"), py::arg("activation"),
             py::arg("save"));
  module.def("feed_forward_backward", &backward, py::arg("dy"), py::arg("arrays"), py::arg("saved"),
             py::arg("activation"), py::arg("needs"), py::arg("out"));
}

}  // namespace lamella
