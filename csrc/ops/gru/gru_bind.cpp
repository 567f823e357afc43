// gru: arrays in and out.
#include "ops/activation/activation_bind.h"
#include "ops/gru/gru.h"
#include "recurrent/sequence_arguments.h"

namespace lamella {
namespace {

const char* const op = "gru";

struct GruArguments : SequenceArguments {
  gru::Cell cell = {};
  bool backwards = false;

  // The second row of the bias, and of its gradient.
  std::int64_t recurrent_bias_at() const { return 3 * units; }
};

// Checks everything and reads nothing. `options` is (go_backwards, activation,
// recurrent_activation, reset_after, x_scale, h_scale).
GruArguments gru_arguments(const py::tuple& arrays, const py::tuple& options) {
  GruArguments a;
  a.cell.reset_after = bool_option(op, "reset_after", options[3]);
  static_cast<SequenceArguments&>(a) =
      sequence_arguments(op, 3, a.cell.reset_after ? 2 : 1, arrays[0], arrays[1], arrays[2],
                         arrays[3], arrays[4], options[4], options[5]);
  a.backwards = bool_option(op, "go_backwards", options[0]);
  a.cell.activation = activation_option(op, options[1]);
  a.cell.recurrent_activation = activation_option(op, options[2]);
  return a;
}

recurrent::Sequence read(const GruArguments& a, const Steps& steps) {
  recurrent::Sequence sequence = read_sequence(op, a, steps);
  if (a.cell.reset_after && sequence.bias != nullptr) {
    sequence.recurrent_bias = sequence.bias + a.recurrent_bias_at();
  }
  return sequence;
}

// (outputs, h, saved): saved is None, or what backward wants.
py::tuple gru_forward(py::tuple arrays, py::object mask, py::object lengths, py::tuple options,
                      bool save) {
  const GruArguments a = gru_arguments(arrays, options);
  const py::object valid = valid_steps(op, a, mask, lengths);
  const Steps steps = make_steps(op, a, valid, a.backwards);
  FloatArray outputs = new_float_array(op, a.output_shape());
  FloatArray h = new_float_array(op, a.state_shape());
  recurrent::Results results = {outputs.mutable_data(), h.mutable_data(), nullptr, nullptr,
                                nullptr};
  float* before = nullptr;
  py::object saved = py::none();
  if (save) {
    const std::int64_t rows = steps.packed_rows();
    FloatArray gates = new_float_array(op, {rows, 3 * a.padded()});
    FloatArray states = new_float_array(op, {rows, a.padded()});
    FloatArray second = new_float_array(op, {rows, a.padded()});
    py::object states_before = py::none();
    results.gates = gates.mutable_data();
    results.states = states.mutable_data();
    results.second = second.mutable_data();
    if (a.h_scale) {
      FloatArray array = new_float_array(op, {rows, a.padded()});
      before = array.mutable_data();
      states_before = std::move(array);
    }
    saved = py::make_tuple(valid, gates, states, second, states_before);
  }
  const recurrent::Sequence sequence = read(a, steps);
  compute_sequence(op, [&] { gru::kernels().forward(sequence, a.cell, results, before); });
  return py::make_tuple(outputs, h, saved);
}

py::tuple gru_backward(py::tuple dy, py::tuple arrays, py::tuple saved, py::tuple options,
                       py::tuple needs, py::tuple out) {
  const GruArguments a = gru_arguments(arrays, options);
  const Steps steps = make_steps(op, a, saved[0], a.backwards);
  const std::int64_t rows = steps.packed_rows();
  const FloatInput gates = float_input(op, "gates", saved[1]);
  const FloatInput states = float_input(op, "states", saved[2]);
  const FloatInput second = float_input(op, "second", saved[3]);
  const FloatInput before = optional_float_input(op, "before", saved[4]);
  expect_shape(op, "gates", gates, {rows, 3 * a.padded()});
  expect_shape(op, "states", states, {rows, a.padded()});
  expect_shape(op, "second", second, {rows, a.padded()});
  if (before) expect_shape(op, "before", before, {rows, a.padded()});
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
  const recurrent::Sequence sequence = read(a, steps);
  const recurrent::Results kept = {nullptr, nullptr, const_cast<float*>(gates.data()),
                                   const_cast<float*>(states.data()),
                                   const_cast<float*>(second.data())};
  recurrent::Gradients wanted = {gradients.data(0), gradients.data(1), gradients.data(2),
                                 gradients.data(3), nullptr,           gradients.data(4)};
  if (a.cell.reset_after && wanted.bias != nullptr) {
    wanted.recurrent_bias = wanted.bias + a.recurrent_bias_at();
  }
  compute_sequence(op, [&] {
    gru::kernels().backward(sequence, a.cell, kept, before.data(), {d_outputs.data(), dh.data()},
                            wanted);
  });
  return gradients.result();
}

}  // namespace

void bind_gru(py::module_& module) {
  module.def("gru_forward", &gru_forward, py::arg("arrays"), py::arg("mask"), py::arg("lengths"),
             py::arg("options"), py::arg("save"));
  module.def("gru_backward", &gru_backward, py::arg("dy"), py::arg("arrays"), py::arg("saved"),
             py::arg("options"), py::arg("needs"), py::arg("out"));
}

}  // namespace lamella
