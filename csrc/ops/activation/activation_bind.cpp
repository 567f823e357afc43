#include "ops/activation/activation_bind.h"

#include <cmath>

#include "core/overlap.h"

namespace lamella {
namespace {

using activation::Activation;
using activation::Kind;

struct Entry {
  const char* name;
  Activation activation;
};
constexpr Entry entries[] = {
    {"linear", {Kind::linear, 0.0f}},
    {"relu", {Kind::relu, 0.0f}},
    {"leaky_relu", {Kind::leaky_relu, 0.2f}},
    {"elu", {Kind::elu, 1.0f}},
    {"sigmoid", {Kind::sigmoid, 0.0f}},
    {"tanh", {Kind::tanh, 0.0f}},
    {"softplus", {Kind::softplus, 0.0f}},
    {"silu", {Kind::silu, 0.0f}},
    {"gelu", {Kind::gelu, 0.0f}},
    {"gelu_tanh", {Kind::gelu_tanh, 0.0f}},
};

// A finite number that is finite in float32 too.
float float_option(const char* op, const char* name, py::handle object) {
  const auto value = static_cast<float>(real_option(op, name, object));
  if (std::isfinite(value)) return value;
  throw ValueError(message(op, ": ", name, " must fit float32, got ", repr_text(object)));
}

Activation with_parameter(const char* op, py::handle kind, py::handle parameter) {
  Activation f = activation_option(op, kind);
  if (f.kind == Kind::elu) f.parameter = float_option(op, "alpha", parameter);
  if (f.kind == Kind::leaky_relu) f.parameter = float_option(op, "negative_slope", parameter);
  return f;
}

// The Python name of the op, for messages: "gelu_tanh" is gelu(approximate=True).
FloatArray forward(py::object kind, py::object x_, py::object parameter) {
  const std::string name = py::str(kind);
  const char* op = name == "gelu_tanh" ? "gelu" : name.c_str();
  const Activation f = with_parameter(op, kind, parameter);
  const FloatInput x = float_input(op, "x", x_);
  FloatArray y = new_float_array(op, Shape(x.shape, x.shape + x.ndim));
  const float* const in = x.data();
  float* out = y.mutable_data();
  {
    const ReleaseGil released;
    activation::kernels().forward(f, x.size, in, out);
  }
  return y;
}

py::object backward(py::object kind, py::object dy_, py::object x_, py::object parameter,
                    py::object out) {
  const std::string name = py::str(kind);
  const char* op = name == "gelu_tanh" ? "gelu" : name.c_str();
  const Activation f = with_parameter(op, kind, parameter);
  const FloatInput x = float_input(op, "x", x_);
  const FloatInput dy = float_input(op, "dy", dy_);
  const Shape shape(x.shape, x.shape + x.ndim);
  expect_shape(op, "dy", dy, shape);
  Output dx = output_array(op, "out", out, shape);
  expect_separate(op, "out", dx.data, dx.size, "x", x.data(), x.size);
  expect_separate(op, "out", dx.data, dx.size, "dy", dy.data(), dy.size);
  const float* const gradient = dy.data();
  const float* const in = x.data();
  {
    const ReleaseGil released;
    activation::kernels().backward(f, x.size, gradient, in, dx.data);
  }
  return dx.array;
}

}  // namespace

Activation activation_option(const char* op, py::handle object) {
  if (object.is_none()) return {};
  for (const Entry& entry : entries) {
    if (is_text(object, entry.name)) return entry.activation;
  }
  std::string names;
  for (const Entry& entry : entries) names += (names.empty() ? "" : ", ") + std::string(entry.name);
  throw ValueError(
      message(op, ": activation must be None or one of ", names, "; got ", repr_text(object)));
}

void bind_activation(py::module_& module) {
  module.def("activation_forward", &forward, py::arg("kind"), py::arg("x"),
             py::arg("parameter") = py::none());
  module.def("activation_backward", &backward, py::arg("kind"), py::arg("dy"), py::arg("x"),
             py::arg("parameter") = py::none(), py::arg("out") = py::none());
}

}  // namespace lamella
