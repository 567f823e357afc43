#include <pybind11/stl.h>

#include "core/arguments.h"
#include "core/overlap.h"
#include "ops/rotary_embedding/rotary_embedding.h"

namespace lamella {
namespace {

constexpr const char* op = "rotary_embedding";

struct RotaryArguments {
  rotary_embedding::Problem problem;
  FloatInput cos, sin;

  void read() {
    problem.cos = cos.data();
    problem.sin = sin.data();
  }
};

// shape: of x (N, S, A, E).
RotaryArguments rotary_arguments(const Shape& shape, py::handle cos, py::handle sin,
                                 py::handle interleaved, bool backward) {
  RotaryArguments a = {};
  rotary_embedding::Problem& p = a.problem;
  p.op = op;
  p.heads = shape[2];
  if (p.heads == 0 || shape[3] == 0 || shape[3] % 2 != 0) {
    throw ValueError(
        message(op, ": x must have at least one head of an even number of elements, got shape ",
                shape_text(shape)));
  }
  p.half = shape[3] / 2;
  p.positions = checked_product(op, "the positions", {shape[0], shape[1]});
  a.cos = float_input(op, "cos", cos);
  a.sin = float_input(op, "sin", sin);
  const bool each = a.cos.ndim == 3;
  const Shape whole = {shape[0], shape[1], p.half};
  const Shape shared = {shape[1], p.half};
  expect_shape(op, "cos", a.cos, each ? whole : shared,
               "(S, E / 2), or with N in front, of x (N, S, A, E)");
  expect_shape(op, "sin", a.sin, each ? whole : shared, "that of cos");
  p.period = each ? p.positions : shape[1];
  p.interleaved = bool_option(op, "interleaved", interleaved);
  p.backward = backward;
  return a;
}

FloatArray forward(py::object x_, py::object cos, py::object sin, py::object interleaved) {
  const FloatInput x = float_input(op, "x", x_);
  expect_ndim(op, "x", x, 4, "(N, S, A, E)");
  const Shape shape(x.shape, x.shape + x.ndim);
  RotaryArguments a = rotary_arguments(shape, cos, sin, interleaved, false);
  FloatArray y = new_float_array(op, shape);
  const float* const in = x.data();
  a.read();
  float* const out = y.mutable_data();
  {
    const ReleaseGil released;
    rotary_embedding::kernels().turn(a.problem, in, out);
  }
  return y;
}

// shape: of x, which a forward pass has checked.
py::object backward(py::object dy_, const Shape& shape, py::object cos, py::object sin,
                    py::object interleaved, py::object out) {
  RotaryArguments a = rotary_arguments(shape, cos, sin, interleaved, true);
  const FloatInput dy = float_input(op, "dy", dy_);
  expect_shape(op, "dy", dy, shape);
  const Output dx = output_array(op, "out", out, shape);
  const float* const gradient = dy.data();
  a.read();
  expect_separate(op, "out", dx.data, dx.size, "dy", gradient, dy.size);
  expect_separate(op, "out", dx.data, dx.size, "cos", a.problem.cos, a.cos.size);
  expect_separate(op, "out", dx.data, dx.size, "sin", a.problem.sin, a.sin.size);
  {
    const ReleaseGil released;
    rotary_embedding::kernels().turn(a.problem, gradient, dx.data);
  }
  return dx.array;
}

}  // namespace

void bind_rotary_embedding(py::module_& module) {
  module.def("rotary_embedding_backward", &backward, py::arg("dy"), py::arg("shape"),
             py::arg("cos"), py::arg("sin"), py::arg("interleaved"), py::arg("out"));
  module.def("rotary_embedding_forward", &forward, py::arg("x"), py::arg("cos"), py::arg("sin"),
             py::arg("interleaved"));
}

}  // namespace lamella
