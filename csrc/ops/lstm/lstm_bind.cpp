// lstm: arrays in and out.
#include "ops/lstm/lstm.h"

#include "core/overlap.h"
#include "ops/activation/activation_bind.h"
#include "recurrent/sequence_arguments.h"

namespace lamella {
namespace {

const char* const op = "lstm";
constexpr std::int64_t padding = 16;  // units come in blocks of so many: recurrent/gate_panels.h

struct LstmArguments : SequenceArguments {
  FloatInput c0;
  Input<std::uint8_t> kept_h, kept_c;
  lstm::Problem problem = {};

  std::int64_t padded() const { return (units + padding - 1) / padding * padding; }
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

// Checks everything, then reads it. `options` is (go_backwards, activation, recurrent_activation,
// x_scale, h_scale, zoneout_h, zoneout_c).
LstmArguments lstm_arguments(const py::tuple& arrays, const py::tuple& options, bool& backwards) {
  LstmArguments a;
  static_cast<SequenceArguments&>(a) = sequence_arguments(
      op, 4, 1, arrays[0], arrays[1], arrays[2], arrays[3], arrays[4], options[3], options[4]);
  a.c0 = optional_rows(op, "c0", arrays[5], a.batch, a.units, "one row a sequence");
  backwards = bool_option(op, "go_backwards", options[0]);
  lstm::Problem& p = a.problem;
  p.inputs = a.inputs;
  p.units = a.units;
  p.activation = activation_option(op, options[1]);
  p.recurrent_activation = activation_option(op, options[2]);
  p.zoneout_h = zoneout_option("zoneout_h", options[5], a.output_shape(), a.kept_h);
  p.zoneout_c = zoneout_option("zoneout_c", options[6], a.output_shape(), a.kept_c);
  return a;
}

void read_arguments(LstmArguments& a) {
  lstm::Problem& p = a.problem;
  p.x = a.x.data();
  p.kernel = a.kernel.data();
  p.recurrent_kernel = a.recurrent_kernel.data();
  p.bias = a.bias.data();
  p.h0 = a.h0.data();
  p.c0 = a.c0.data();
  p.x_scale = a.x_scale.data();
  p.h_scale = a.h_scale.data();
  p.zoneout_h.kept = a.kept_h.data();
  p.zoneout_c.kept = a.kept_c.data();
}

template <class Compute>
void run(const Compute& compute) {
  const ReleaseGil release;
  try {
    compute();
  } catch (const MemoryError& error) {
    throw MemoryError(op, error.bytes);
  }
}

// (outputs, h, c, saved): saved is None, or what backward wants.
py::tuple lstm_forward(py::tuple arrays, py::object mask, py::object lengths, py::tuple options,
                       bool save) {
  bool backwards = false;
  LstmArguments a = lstm_arguments(arrays, options, backwards);
  const py::object valid = valid_steps(op, a, mask, lengths);
  const Steps steps = make_steps(op, a, valid, backwards);
  a.problem.steps = &steps;
  py::array_t<float> outputs = new_float_array(op, a.output_shape());
  py::array_t<float> h = new_float_array(op, a.state_shape());
  py::array_t<float> c = new_float_array(op, a.state_shape());
  py::object saved = py::none();
  lstm::Saved kept = {};
  if (save) {
    const std::int64_t rows = steps.packed_rows();
    py::array_t<float> gates = new_float_array(op, {rows, 4 * a.padded()});
    py::array_t<float> cells = new_float_array(op, {rows, a.padded()});
    py::array_t<float> states = new_float_array(op, {rows, a.padded()});
    py::object carried = py::none();
    kept = {gates.mutable_data(), cells.mutable_data(), states.mutable_data(), nullptr};
    if (a.problem.zoneout_c.on() || a.kept_c) {
      py::array_t<float> array = new_float_array(op, {rows, a.padded()});
      kept.carried = array.mutable_data();
      carried = std::move(array);
    }
    saved = py::make_tuple(gates, cells, states, carried, valid);
  }
  read_arguments(a);
  const lstm::Results results = {outputs.mutable_data(), h.mutable_data(), c.mutable_data()};
  run([&] { lstm::kernels().forward(a.problem, results, kept); });
  return py::make_tuple(outputs, h, c, saved);
}

// The gradients of the arrays; `needs` says which, `out` where to.
py::tuple lstm_backward(py::tuple dy, py::tuple arrays, py::tuple saved, py::tuple options,
                        py::tuple needs, py::tuple out) {
  bool backwards = false;
  LstmArguments a = lstm_arguments(arrays, options, backwards);
  const Steps steps = make_steps(op, a, saved[4], backwards);
  a.problem.steps = &steps;
  const std::int64_t rows = steps.packed_rows();
  const FloatInput gates = float_input(op, "gates", saved[0]);
  const FloatInput cells = float_input(op, "cells", saved[1]);
  const FloatInput states = float_input(op, "states", saved[2]);
  const FloatInput carried = optional_float_input(op, "carried", saved[3]);
  expect_shape(op, "gates", gates, {rows, 4 * a.padded()});
  expect_shape(op, "cells", cells, {rows, a.padded()});
  expect_shape(op, "states", states, {rows, a.padded()});
  if (carried) expect_shape(op, "carried", carried, {rows, a.padded()});
  const FloatInput d_outputs = optional_gradient(op, "dy[0]", dy[0], a.output_shape());
  const FloatInput d_h = optional_gradient(op, "dy[1]", dy[1], a.state_shape());
  const FloatInput d_c = optional_gradient(op, "dy[2]", dy[2], a.state_shape());

  const FloatInput* const inputs[] = {&a.x, &a.kernel, &a.recurrent_kernel, &a.bias, &a.h0, &a.c0};
  Output gradients[6];
  for (std::size_t i = 0; i < 6; ++i) {
    gradients[i].array = py::none();
    if (!*inputs[i] || !needs[i].cast<bool>()) continue;
    const std::string name = "out[" + std::to_string(i) + "]";
    gradients[i] = output_array(op, name.c_str(), out[i],
                                Shape(inputs[i]->shape, inputs[i]->shape + inputs[i]->ndim));
  }
  const auto separate = [&](std::size_t i, const char* name, const float* data, std::int64_t size) {
    const std::string own = "out[" + std::to_string(i) + "]";
    expect_separate(op, own.c_str(), gradients[i].data, gradients[i].size, name, data, size);
  };
  read_arguments(a);
  const char* const names[] = {"x", "kernel", "recurrent_kernel", "bias", "h0", "c0"};
  for (std::size_t i = 0; i < 6; ++i) {
    if (gradients[i].data == nullptr) continue;
    for (std::size_t k = 0; k < 6; ++k) separate(i, names[k], inputs[k]->data(), inputs[k]->size);
    separate(i, "x_scale", a.x_scale.data(), a.x_scale.size);
    separate(i, "h_scale", a.h_scale.data(), a.h_scale.size);
    separate(i, "dy", d_outputs.data(), d_outputs.size);
    separate(i, "dy", d_h.data(), d_h.size);
    separate(i, "dy", d_c.data(), d_c.size);
    for (std::size_t k = 0; k < i; ++k) {
      separate(i, "another gradient", gradients[k].data, gradients[k].size);
    }
  }
  const lstm::Saved kept = {const_cast<float*>(gates.data()), const_cast<float*>(cells.data()),
                            const_cast<float*>(states.data()), const_cast<float*>(carried.data())};
  const lstm::ResultGradients result_gradients = {d_outputs.data(), d_h.data(), d_c.data()};
  const lstm::Gradients wanted = {gradients[0].data, gradients[1].data, gradients[2].data,
                                  gradients[3].data, gradients[4].data, gradients[5].data};
  run([&] { lstm::kernels().backward(a.problem, kept, result_gradients, wanted); });
  py::tuple result(6);
  for (std::size_t i = 0; i < 6; ++i) result[i] = gradients[i].array;
  return result;
}

}  // namespace

void bind_lstm(py::module_& module) {
  module.def("lstm_forward", &lstm_forward, py::arg("arrays"), py::arg("mask"), py::arg("lengths"),
             py::arg("options"), py::arg("save"));
  module.def("lstm_backward", &lstm_backward, py::arg("dy"), py::arg("arrays"), py::arg("saved"),
             py::arg("options"), py::arg("needs"), py::arg("out"));
}

}  // namespace lamella
