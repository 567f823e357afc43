// lstm: arrays in and out.
#include "ops/activation/activation_bind.h"
#include "ops/lstm/lstm.h"
#include "recurrent/sequence_arguments.h"

namespace lamella {
namespace {

const char* const op = "lstm";

struct LstmArguments : SequenceArguments {
  FloatInput c0, gamma_x, gamma_h, gamma_c, beta_c;
  Input<std::uint8_t> kept_h, kept_c;
  lstm::Cell cell = {};
  lstm::Variant variant = {};
  bool backwards = false;

  Shape cell_shape() const { return {batch, units}; }
  bool normalizes() const { return gamma_x || gamma_h || gamma_c; }
  bool is_variant() const { return normalizes() || projection_kernel; }
};

// A rate, or a bool array (N, T, width of the state).
lstm::Zoneout zoneout_option(const char* name, py::handle object, const Shape& shape,
                             Input<std::uint8_t>& kept) {
  lstm::Zoneout zoneout;
  if (is_array(object) && view_array(object).ndim > 0) {
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

FloatInput vector_argument(const char* name, py::handle object, std::int64_t size,
                           const char* why) {
  FloatInput vector = optional_float_input(op, name, object);
  if (vector) expect_shape(op, name, vector, {size}, why);
  return vector;
}

// Checks everything and reads nothing. `arrays` are x, kernel, recurrent_kernel, bias, h0, c0,
// projection_kernel, gamma_x, gamma_h, gamma_c, beta_c; `options` go_backwards, activation,
// recurrent_activation, x_scale, h_scale, zoneout_h, zoneout_c, epsilon.
LstmArguments lstm_arguments(const py::tuple& arrays, const py::tuple& options) {
  LstmArguments a;
  static_cast<SequenceArguments&>(a) =
      sequence_arguments(op, 4, 1, arrays[0], arrays[1], arrays[2], arrays[3], arrays[4],
                         options[3], options[4], arrays[6]);
  a.c0 = optional_rows(op, "c0", arrays[5], a.batch, a.units, "one row a sequence");
  const char* const of_gates = "one value a unit and gate";
  a.gamma_x = vector_argument("gamma_x", arrays[7], 4 * a.units, of_gates);
  a.gamma_h = vector_argument("gamma_h", arrays[8], 4 * a.units, of_gates);
  a.gamma_c = vector_argument("gamma_c", arrays[9], a.units, "one value a unit");
  a.beta_c = vector_argument("beta_c", arrays[10], a.units, "one value a unit");
  if (a.beta_c && !a.gamma_c) {
    throw ValueError(message(op, ": beta_c needs gamma_c, got None: c is not normalized"));
  }
  a.backwards = bool_option(op, "go_backwards", options[0]);
  a.cell.activation = activation_option(op, options[1]);
  a.cell.recurrent_activation = activation_option(op, options[2]);
  const Shape of_cells = {a.batch, a.time, a.units};
  a.cell.zoneout_h = zoneout_option("zoneout_h", options[5], a.output_shape(), a.kept_h);
  a.cell.zoneout_c = zoneout_option("zoneout_c", options[6], of_cells, a.kept_c);
  const double epsilon = real_option(op, "epsilon", options[7]);
  a.variant.epsilon = static_cast<float>(epsilon);
  if (epsilon <= 0.0 || !(a.variant.epsilon > 0.0f)) {
    throw ValueError(message(op, ": epsilon must be positive, got ", repr_text(options[7])));
  }
  return a;
}

void read_cell(LstmArguments& a) {
  a.cell.c0 = a.c0.data();
  a.cell.zoneout_h.kept = a.kept_h.data();
  a.cell.zoneout_c.kept = a.kept_c.data();
  a.variant.projection_kernel = a.projection_kernel.data();
  a.variant.gamma_x = a.gamma_x.data();
  a.variant.gamma_h = a.gamma_h.data();
  a.variant.gamma_c = a.gamma_c.data();
  a.variant.beta_c = a.beta_c.data();
}

// A new array that forward keeps, None where it does not; `to` is its memory.
py::object kept_array(bool wanted, const Shape& shape, float*& to) {
  if (!wanted) return py::none();
  FloatArray array = new_float_array(op, shape);
  to = array.mutable_data();
  return array;
}

// What forward kept, of the shape it has to have where it is not None.
float* kept_data(const char* name, const FloatInput& kept, const Shape& shape) {
  if (kept) expect_shape(op, name, kept, shape);
  return const_cast<float*>(kept.data());
}

// (outputs, h, c, saved): saved is None, or what backward wants.
py::tuple lstm_forward(py::tuple arrays, py::object mask, py::object lengths, py::tuple options,
                       bool save) {
  LstmArguments a = lstm_arguments(arrays, options);
  const py::object valid = valid_steps(op, a, mask, lengths);
  const Steps steps = make_steps(op, a, valid, a.backwards);
  FloatArray outputs = new_float_array(op, a.output_shape());
  FloatArray h = new_float_array(op, a.state_shape());
  FloatArray c = new_float_array(op, a.cell_shape());
  recurrent::Results results = {outputs.mutable_data(), h.mutable_data(), nullptr, nullptr,
                                nullptr};
  lstm::CellResults cell_results = {c.mutable_data(), nullptr, nullptr};
  lstm::VariantResults kept = {};
  py::object saved = py::none();
  if (save) {
    const std::int64_t rows = steps.packed_rows();
    const bool carries = a.cell.zoneout_c.on() || a.kept_c;
    const Shape gates = {rows, 4 * a.padded()};
    const Shape units = {rows, a.padded()};
    saved = py::make_tuple(
        valid, kept_array(true, gates, results.gates),
        kept_array(true, {rows, a.padded_state()}, results.states),
        kept_array(true, units, cell_results.cells),
        kept_array(carries, units, cell_results.carried),
        kept_array(static_cast<bool>(a.gamma_x), gates, kept.x_product),
        kept_array(static_cast<bool>(a.gamma_h), gates, kept.h_product),
        kept_array(a.normalizes(), {rows, lstm::statistics_floats}, kept.statistics));
  }
  read_cell(a);
  const recurrent::Sequence sequence = read_sequence(op, a, steps);
  compute_sequence(op, [&] {
    if (a.is_variant()) {
      lstm::kernels().variant_forward(sequence, a.cell, a.variant, results, cell_results, kept);
    } else {
      lstm::kernels().forward(sequence, a.cell, results, cell_results);
    }
  });
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
  const FloatInput x_product = optional_float_input(op, "x_product", saved[5]);
  const FloatInput h_product = optional_float_input(op, "h_product", saved[6]);
  const FloatInput statistics = optional_float_input(op, "statistics", saved[7]);
  const Shape of_gates = {rows, 4 * a.padded()};
  const Shape of_units = {rows, a.padded()};
  const recurrent::Results kept = {nullptr, nullptr, kept_data("gates", gates, of_gates),
                                   kept_data("states", states, {rows, a.padded_state()}), nullptr};
  const lstm::CellResults cell_kept = {nullptr, kept_data("cells", cells, of_units),
                                       kept_data("carried", carried, of_units)};
  const lstm::VariantResults variant_kept = {
      kept_data("x_product", x_product, of_gates), kept_data("h_product", h_product, of_gates),
      kept_data("statistics", statistics, {rows, lstm::statistics_floats})};
  const FloatInput d_outputs = optional_gradient(op, "dy[0]", dy[0], a.output_shape());
  const FloatInput dh = optional_gradient(op, "dy[1]", dy[1], a.state_shape());
  const FloatInput dc = optional_gradient(op, "dy[2]", dy[2], a.cell_shape());
  const ArgumentGradients gradients(op,
                                    {{"x", &a.x},
                                     {"kernel", &a.kernel},
                                     {"recurrent_kernel", &a.recurrent_kernel},
                                     {"bias", &a.bias},
                                     {"h0", &a.h0},
                                     {"c0", &a.c0},
                                     {"projection_kernel", &a.projection_kernel},
                                     {"gamma_x", &a.gamma_x},
                                     {"gamma_h", &a.gamma_h},
                                     {"gamma_c", &a.gamma_c},
                                     {"beta_c", &a.beta_c}},
                                    needs, out);
  gradients.expect_separate_from({&d_outputs, &dh, &dc, &a.x_scale, &a.h_scale});
  read_cell(a);
  const recurrent::Sequence sequence = read_sequence(op, a, steps);
  const recurrent::ResultGradients d_results = {d_outputs.data(), dh.data()};
  const recurrent::Gradients wanted = {gradients.data(0), gradients.data(1), gradients.data(2),
                                       gradients.data(3), nullptr,           gradients.data(4)};
  const lstm::CellGradients cell_wanted = {dc.data(), gradients.data(5)};
  const lstm::VariantGradients variant_wanted = {gradients.data(6), gradients.data(7),
                                                 gradients.data(8), gradients.data(9),
                                                 gradients.data(10)};
  compute_sequence(op, [&] {
    if (a.is_variant()) {
      lstm::kernels().variant_backward(sequence, a.cell, a.variant, kept, cell_kept, variant_kept,
                                       d_results, wanted, cell_wanted, variant_wanted);
    } else {
      lstm::kernels().backward(sequence, a.cell, kept, cell_kept, d_results, wanted, cell_wanted);
    }
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
