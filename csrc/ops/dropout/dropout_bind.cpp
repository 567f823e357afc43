#include <pybind11/stl.h>

#include "core/arguments.h"
#include "core/overlap.h"
#include "core/philox.h"
#include "ops/dropout/dropout.h"

namespace lamella {
namespace {

constexpr const char* op = "dropout";

dropout::Mask mask_options(py::handle rate_, py::handle seed) {
  const double rate = real_option(op, "rate", rate_);
  if (!(rate >= 0.0 && rate < 1.0)) {
    throw ValueError(message(op, ": rate must lie in [0, 1), got ", rate));
  }
  return {seed_option(op, "seed", seed), dropout_threshold(rate),
          static_cast<float>(1.0 / (1.0 - rate))};
}

FloatArray forward(py::object x_, py::object rate, py::object seed) {
  const dropout::Mask mask = mask_options(rate, seed);
  const FloatInput x = float_input(op, "x", x_);
  FloatArray y = new_float_array(op, Shape(x.shape, x.shape + x.ndim));
  const float* const in = x.data();
  float* out = y.mutable_data();
  {
    const ReleaseGil released;
    dropout::kernels().apply(mask, x.size, in, out);
  }
  return y;
}

py::object backward(py::object dy_, const Shape& shape, py::object rate, py::object seed,
                    py::object out) {
  const dropout::Mask mask = mask_options(rate, seed);
  const FloatInput dy = float_input(op, "dy", dy_);
  expect_shape(op, "dy", dy, shape);
  Output dx = output_array(op, "out", out, shape);
  expect_separate(op, "out", dx.data, dx.size, "dy", dy.data(), dy.size);
  const float* const gradient = dy.data();
  {
    const ReleaseGil released;
    dropout::kernels().apply(mask, dy.size, gradient, dx.data);
  }
  return dx.array;
}

}  // namespace

void bind_dropout(py::module_& module) {
  module.def("dropout_forward", &forward, py::arg("x"), py::arg("rate"), py::arg("seed"));
  module.def("dropout_backward", &backward, py::arg("dy"), py::arg("shape"), py::arg("rate"),
             py::arg("seed"), py::arg("out") = py::none());
}

}  // namespace lamella
