// simple_rnn: arrays in and out.
#include "ops/activation/activation_bind.h"
#include "ops/simple_rnn/simple_rnn.h"
#include "recurrent/sequence_arguments.h"

namespace lamella {
namespace {

const char* const op = "simple_rnn";

struct SimpleArguments : SequenceArguments {
  activation::Activation activation;
  bool backwards = false;
};

// Checks everything and reads nothing. `options` is (go_backwards, activation, x_scale, h_scale).
SimpleArguments simple_arguments(const py::tuple& arrays, const py::tuple& options) {
  SimpleArguments a;
  static_cast<SequenceArguments&>(a) = sequence_arguments(
      op, 1, 1, arrays[0], arrays[1], arrays[2], arrays[3], arrays[4], options[2], options[3]);
  a.backwards = bool_option(op, "go_backwards", options[0]);
  a.activation = activation_option(op, options[1]);
  return a;
}

// (outputs, h, saved): saved is None, or what backward wants.
py::tuple simple_rnn_forward(py::tuple arrays, py::object mask, py::object lengths,
                             py::tuple options, bool save) {
  const SimpleArguments a = simple_arguments(arrays, options);
  const py::object valid = valid_steps(op, a, mask, lengths);
  const Steps steps = make_steps(op, a, valid, a.backwards);
  FloatArray outputs = new_float_array(op, a.output_shape());
  FloatArray h = new_float_array(op, a.state_shape());
  recurrent::Results results = {outputs.mutable_data(), h.mutable_data(), nullptr, nullptr,
                                nullptr};
  py::object saved = py::none();
  if (save) {
    const Shape shape = {steps.packed_rows(), a.padded()};
    FloatArray gates = new_float_array(op, shape);
    FloatArray states = new_float_array(op, shape);
    results.gates = gates.mutable_data();
    results.states = states.mutable_data();
    saved = py::make_tuple(valid, gates, states);
  }
  const recurrent::Sequence sequence = read_sequence(op, a, steps);
  compute_sequence(op, [&] { simple_rnn::kernels().forward(sequence, a.activation, results); });
  return py::make_tuple(outputs, h, saved);
}

py::tuple simple_rnn_backward(py::tuple dy, py::tuple arrays, py::tuple saved, py::tuple options,
                              py::tuple needs, py::tuple out) {
  const SimpleArguments a = simple_arguments(arrays, options);
  const Steps steps = make_steps(op, a, saved[0], a.backwards);
  const FloatInput gates = float_input(op, "gates", saved[1]);
  const FloatInput states = float_input(op, "states", saved[2]);
  expect_shape(op, "gates", gates, {steps.packed_rows(), a.padded()});
  expect_shape(op, "states", states, {steps.packed_rows(), a.padded()});
  const FloatInput d_outputs = optional_gradient(op, "dy[0]", dy[0], a.output_shape());
  const FloatInput dh = optional_gradient(op, "dy[1]", dy[1], a.state_shape());
  const ArgumentGradients gradients(op,
                                    {{"x", &a.x},
                                     {"kernel", &a.kernel},
                                     {"recurrent_kernel", &a.recurrent_kernel},
                                     {"bias", &a.bias},
                                     {"h0", &a.h0}},
                                    needs, out);
  gradients.expect_separate_from({&d_outputs, &dh, &a.x_scale, &a.h_scale});
  const recurrent::Sequence sequence = read_sequence(op, a, steps);
  const recurrent::Results kept = {nullptr, nullptr, const_cast<float*>(gates.data()),
                                   const_cast<float*>(states.data()), nullptr};
  const recurrent::Gradients wanted = {gradients.data(0), gradients.data(1), gradients.data(2),
                                       gradients.data(3), nullptr,           gradients.data(4)};
  compute_sequence(op, [&] {
    simple_rnn::kernels().backward(sequence, a.activation, kept, {d_outputs.data(), dh.data()},
                                   wanted);
  });
  return gradients.result();
}

}  // namespace

void bind_simple_rnn(py::module_& module) {
  module.def("simple_rnn_forward", &simple_rnn_forward, py::arg("arrays"), py::arg("mask"),
             py::arg("lengths"), py::arg("options"), py::arg("save"));
  module.def("simple_rnn_backward", &simple_rnn_backward, py::arg("dy"), py::arg("arrays"),
             py::arg("saved"), py::arg("options"), py::arg("needs"), py::arg("out"));
}

}  // namespace lamella
