// lstm: arrays in and out.
#include "ops/activation/activation_bind.h"
#include "ops/lstm/lstm.h"
#include "recurrent/sequence_arguments.h"

namespace lamella {
namespace {

const char* const op = "lstm";

struct LstmArguments : SequenceArguments {
  FloatInput c0;
  Input<std::uint8_t> kept_h, kept_c;
  lstm::Cell cell = {};
  bool backwards = false;
};

// A rate, or a bool array (N, T, U).
lstm::Zoneout zoneout_option(const char* name, py::handle object, const Shape& shape,
                             Input<std::uint8_t>& kept) {
  lstm::Zoneout zoneout;
  if (py::isinstance<py::array>(object) && py::reinterpret_borrow<py::array>(object).ndim() > 0) {
    kept = bool_input(op, name, object);
    expect_shape(op, name, kept, shape, "one value a unit and step, or a rate");
    return zoneout;
  }
  const double rate = real_option(op, name, object);
  if (rate < 0.0 || rate >= 1.0) {
    throw ValueError(message(op, ": ", name, " must lie in [0, 1), got ", repr_text(object)));
  }
  zoneout.rate = static_cast<float>(rate);
  return zoneout;
}

// Checks everything and reads nothing. `options` is (go_backwards, activation,
// recurrent_activation, x_scale, h_scale, zoneout_h, zoneout_c).
LstmArguments lstm_arguments(const py::tuple& arrays, const py::tuple& options) {
  LstmArguments a;
  static_cast<SequenceArguments&>(a) = sequence_arguments(
      op, 4, 1, arrays[0], arrays[1], arrays[2], arrays[3], arrays[4], options[3], options[4]);
  a.c0 = optional_rows(op, "c0", arrays[5], a.batch, a.units, "one row a sequence");
  a.backwards = bool_option(op, "go_backwards", options[0]);
  a.cell.activation = activation_option(op, options[1]);
  a.cell.recurrent_activation = activation_option(op, options[2]);
  a.cell.zoneout_h = zoneout_option("zoneout_h", options[5], a.output_shape(), a.kept_h);
  a.cell.zoneout_c = zoneout_option("zoneout_c", options[6], a.output_shape(), a.kept_c);
  return a;
}

void read_cell(LstmArguments& a) {
  a.cell.c0 = a.c0.data();
  a.cell.zoneout_h.kept = a.kept_h.data();
  a.cell.zoneout_c.kept = a.kept_c.data();
}

// (outputs, h, c, saved): saved is None, or what backward wants.
py::tuple lstm_forward(py::tuple arrays, py::object mask, py::object lengths, py::tuple options,
                       bool save) {
  LstmArguments a = lstm_arguments(arrays, options);
  const py::object valid = valid_steps(op, a, mask, lengths);
  const Steps steps = make_steps(op, a, valid, a.backwards);
  py::array_t<float> outputs = new_float_array(op, a.output_shape());
  py::array_t<float> h = new_float_array(op, a.state_shape());
  py::array_t<float> c = new_float_array(op, a.state_shape());
  recurrent::Results results = {outputs.mutable_data(), h.mutable_data(), nullptr, nullptr,
                                nullptr};
  lstm::CellResults cell_results = {c.mutable_data(), nullptr, nullptr};
  py::object saved = py::none();
  if (save) {
    const std::int64_t rows = steps.packed_rows();
    py::array_t<float> gates = new_float_array(op, {rows, 4 * a.padded()});
    py::array_t<float> states = new_float_array(op, {rows, a.padded()});
    py::array_t<float> cells = new_float_array(op, {rows, a.padded()});
    py::object carried = py::none();
    results.gates = gates.mutable_data();
    results.states = states.mutable_data();
    cell_results.cells = cells.mutable_data();
    if (a.cell.zoneout_c.on() || a.kept_c) {
      py::array_t<float> array = new_float_array(op, {rows, a.padded()});
      cell_results.carried = array.mutable_data();
      carried = std::move(array);
    }
    saved = py::make_tuple(valid, gates, states, cells, carried);
  }
  read_cell(a);
  const recurrent::Sequence sequence = read_sequence(op, a, steps);
  compute_sequence(op, [&] { lstm::kernels().forward(sequence, a.cell, results, cell_results); });
  return py::make_tuple(outputs, h, c, saved);
}

py::tuple lstm_backward(py::tuple dy, py::tuple arrays, py::tuple saved, py::tuple options,
                        py::tuple needs, py::tuple out) {
  LstmArguments a = lstm_arguments(arrays, options);
  const Steps steps = make_steps(op, a, saved[0], a.backwards);
  const std::int64_t rows = steps.packed_rows();
  const FloatInput gates = float_input(op, "gates", saved[1]);
  const FloatInput states = float_input(op, "states", saved[2]);
  const FloatInput cells = float_input(op, "cells", saved[3]);
  const FloatInput carried = optional_float_input(op, "carried", saved[4]);
  expect_shape(op, "gates", gates, {rows, 4 * a.padded()});
  expect_shape(op, "states", states, {rows, a.padded()});
  expect_shape(op, "cells", cells, {rows, a.padded()});
  if (carried) expect_shape(op, "carried", carried, {rows, a.padded()});
  const FloatInput d_outputs = optional_gradient(op, "dy[0]", dy[0], a.output_shape());
  const FloatInput dh = optional_gradient(op, "dy[1]", dy[1], a.state_shape());
  const FloatInput dc = optional_gradient(op, "dy[2]", dy[2], a.state_shape());
  const ArgumentGradients gradients(op,
                                    {{"x", &a.x},
                                     {"kernel", &a.kernel},
                                     {"recurrent_kernel", &a.recurrent_kernel},
                                     {"bias", &a.bias},
                                     {"h0", &a.h0},
                                     {"c0", &a.c0}},
                                    needs, out);
  gradients.expect_separate_from({&d_outputs, &dh, &dc, &a.x_scale, &a.h_scale});
  read_cell(a);
  const recurrent::Sequence sequence = read_sequence(op, a, steps);
  const recurrent::Results kept = {nullptr, nullptr, const_cast<float*>(gates.data()),
                                   const_cast<float*>(states.data()), nullptr};
  const lstm::CellResults cell_kept = {nullptr, const_cast<float*>(cells.data()),
                                       const_cast<float*>(carried.data())};
  const recurrent::Gradients wanted = {gradients.data(0), gradients.data(1), gradients.data(2),
                                       gradients.data(3), nullptr,           gradients.data(4)};
  compute_sequence(op, [&] {
    lstm::kernels().backward(sequence, a.cell, kept, cell_kept, {d_outputs.data(), dh.data()},
                             wanted, {dc.data(), gradients.data(5)});
  });
  return gradients.result();
}

}  // namespace

void bind_lstm(py::module_& module) {
  module.def("lstm_forward", &lstm_forward, py::arg("arrays"), py::arg("mask"), py::arg("lengths"),
             py::arg("options"), py::arg("save"));
  module.def("lstm_backward", &lstm_backward, py::arg("dy"), py::arg("arrays"), py::arg("saved"),
             py::arg("options"), py::arg("needs"), py::arg("out"));
}

}  // namespace lamella
