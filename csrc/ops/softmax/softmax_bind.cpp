#include "ops/softmax/softmax.h"

#include "core/overlap.h"

namespace lamella {
namespace {

const char* op_name(bool logarithm) {
  return logarithm ? "log_softmax" : "softmax";
}

softmax::Axis axis_option(const char* op, py::handle object, const FloatInput& x) {
  const std::int64_t given = int_option(op, "axis", object);
  if (given < -x.ndim || given >= x.ndim) {
    throw ValueError(message(op, ": axis must lie in [", -x.ndim, ", ", x.ndim,
                             ") for an array of shape ", x.shape_text(), ", got ", given));
  }
  const std::int64_t position = given < 0 ? given + x.ndim : given;
  softmax::Axis axis{1, x.shape[position], 1};
  for (int i = 0; i < x.ndim; ++i) {
    if (i < position) axis.outer *= x.shape[i];
    if (i > position) axis.inner *= x.shape[i];
  }
  return axis;
}

py::object forward(py::object x_, py::object axis_, bool logarithm) {
  const char* op = op_name(logarithm);
  const FloatInput x = float_input(op, "x", x_);
  const softmax::Axis axis = axis_option(op, axis_, x);
  FloatArray y = new_float_array(op, Shape(x.shape, x.shape + x.ndim));
  if (x.size > 0) {
    const float* const in = x.data();
    float* out = y.mutable_data();
    const ReleaseGil release;
    softmax::kernels().forward(axis, logarithm, in, out);
  }
  return y;
}

py::object backward(py::object dy_, py::object y_, py::object axis_, bool logarithm,
                    py::object out) {
  const char* op = op_name(logarithm);
  const FloatInput y = float_input(op, "y", y_);
  const softmax::Axis axis = axis_option(op, axis_, y);
  const Shape shape(y.shape, y.shape + y.ndim);
  const FloatInput dy = float_input(op, "dy", dy_);
  expect_shape(op, "dy", dy, shape);
  const Output dx = output_array(op, "out", out, shape);
  expect_separate(op, "out", dx.data, dx.size, "y", y.data(), y.size);
  expect_separate(op, "out", dx.data, dx.size, "dy", dy.data(), dy.size);
  if (y.size > 0) {
    const float* const gradient = dy.data();
    const float* const result = y.data();
    const ReleaseGil release;
    softmax::kernels().backward(axis, logarithm, gradient, result, dx.data);
  }
  return dx.array;
}

}  // namespace

void bind_softmax(py::module_& module) {
  module.def("softmax_forward", &forward, py::arg("x"), py::arg("axis"), py::arg("logarithm"));
  module.def("softmax_backward", &backward, py::arg("dy"), py::arg("y"), py::arg("axis"),
             py::arg("logarithm"), py::arg("out") = py::none());
}

}  // namespace lamella
