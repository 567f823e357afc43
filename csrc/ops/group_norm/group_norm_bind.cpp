#include "ops/group_norm/group_norm.h"

#include <algorithm>

#include "core/argument_gradients.h"

namespace lamella {
namespace {

constexpr const char* op = "group_norm";

// The arguments of both directions, checked.
struct Arguments {
  FloatInput x;
  FloatInput gamma;
  FloatInput beta;
  group_norm::Images shape;

  Arguments(py::handle x_, py::handle gamma_, py::handle beta_, py::handle groups)
      : x(float_input(op, "x", x_)),
        gamma(optional_float_input(op, "gamma", gamma_)),
        beta(optional_float_input(op, "beta", beta_)) {
    if (x.ndim < 2 || x.shape[x.ndim - 1] < 1) {
      throw ValueError(message(op, ": x must have shape (N, ..., C) with at least one channel, ",
                               "got ", x.shape_text()));
    }
    shape.images = x.shape[0];
    shape.channels = x.shape[x.ndim - 1];
    shape.rows = 1;
    for (int i = 1; i < x.ndim - 1; ++i) {
      shape.rows = checked_multiply(op, "an image", shape.rows, x.shape[i]);
    }
    shape.groups = positive_int_option(op, "groups", groups);
    if (shape.channels % shape.groups != 0) {
      throw ValueError(message(op, ": groups must divide the channels, got groups=", shape.groups,
                               " for ", shape.channels, " channels of x of shape ",
                               x.shape_text()));
    }
    for (const auto& [name, array] : {std::pair("gamma", &gamma), std::pair("beta", &beta)}) {
      if (*array) expect_shape(op, name, *array, {shape.channels}, "one value a channel");
    }
  }

  Shape x_shape() const { return Shape(x.shape, x.shape + x.ndim); }
  Shape saved_shape() const { return {3, shape.images, shape.groups}; }

  group_norm::Statistics statistics(float* saved) const {
    if (saved == nullptr) return {};
    const std::int64_t runs = shape.images * shape.groups;
    return {saved, saved + runs, saved + 2 * runs};
  }
};

// (y, saved or None)
py::tuple forward(py::object x, py::object gamma, py::object beta, py::object groups,
                  py::object epsilon_, bool saves) {
  const Arguments a(x, gamma, beta, groups);
  const double epsilon = real_option(op, "epsilon", epsilon_);
  if (!(epsilon > 0.0)) {
    throw ValueError(message(op, ": epsilon must be greater than 0, got ", epsilon));
  }
  FloatArray y = new_float_array(op, a.x_shape());
  py::object saved = py::none();
  group_norm::Forward p{};
  p.shape = a.shape;
  p.epsilon = epsilon;
  p.y = y.mutable_data();
  if (saves) {
    FloatArray statistics = new_float_array(op, a.saved_shape());
    p.saved = a.statistics(statistics.mutable_data());
    saved = std::move(statistics);
  }
  if (a.x.size > 0) {
    p.x = a.x.data();
    p.gamma = a.gamma.data();
    p.beta = a.beta.data();
    const ReleaseGil release;
    group_norm::kernels().forward(p);
  }
  return py::make_tuple(std::move(y), saved);
}

py::object backward(py::object dy_, py::object x, py::object gamma, py::object beta,
                    py::object saved_, py::object groups, const py::tuple& needs,
                    const py::tuple& out) {
  const Arguments a(x, gamma, beta, groups);
  const FloatInput saved = float_input(op, "saved", saved_);
  expect_shape(op, "saved", saved, a.saved_shape());
  const FloatInput dy = float_input(op, "dy", dy_);
  expect_shape(op, "dy", dy, a.x_shape());

  // x, gamma, beta
  ArgumentGradients gradients(op, 3, needs, out);
  group_norm::Backward p{};
  p.shape = a.shape;
  p.dx = gradients.place(0, true, a.x_shape());
  p.dgamma = gradients.place(1, static_cast<bool>(a.gamma), {a.shape.channels});
  p.dbeta = gradients.place(2, static_cast<bool>(a.beta), {a.shape.channels});
  p.dy = dy.data();
  p.x = a.x.data();
  p.gamma = a.gamma.data();
  // The kernel reads them only.
  p.saved = a.statistics(const_cast<float*>(saved.data()));
  gradients.expect_separate_from_each_other();
  const std::pair<const char*, const FloatInput*> inputs[] = {
      {"dy", &dy}, {"x", &a.x}, {"gamma", &a.gamma}, {"saved", &saved}};
  for (const auto& [name, input] : inputs) gradients.expect_separate_from(name, *input);
  if (a.x.size > 0) {
    const ReleaseGil release;
    group_norm::kernels().backward(p);
  } else {
    for (float* parameter : {p.dgamma, p.dbeta}) {
      if (parameter != nullptr) fill_zeros(parameter, a.shape.channels);
    }
  }
  return gradients.result();
}

}  // namespace

void bind_group_norm(py::module_& module) {
  module.def("group_norm_forward", &forward, py::arg("x"), py::arg("gamma"), py::arg("beta"),
             py::arg("groups"), py::arg("epsilon"), py::arg("saves"));
  module.def("group_norm_backward", &backward, py::arg("dy"), py::arg("x"), py::arg("gamma"),
             py::arg("beta"), py::arg("saved"), py::arg("groups"), py::arg("needs"),
             py::arg("out"));
}

}  // namespace lamella
