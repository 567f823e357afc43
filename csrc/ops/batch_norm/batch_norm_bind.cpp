#include "ops/batch_norm/batch_norm.h"

#include <algorithm>

#include "core/argument_gradients.h"

namespace lamella {
namespace {

constexpr const char* op = "batch_norm";

// The arguments of both directions, checked; the arrays are kept alive here.
struct Arguments {
  FloatInput x;
  FloatInput gamma;
  FloatInput beta;
  FloatInput mean;
  FloatInput variance;
  double epsilon;
  std::int64_t rows = 1;
  std::int64_t channels = 0;

  Arguments(py::handle x_, py::handle gamma_, py::handle beta_, py::handle mean_,
            py::handle variance_, py::handle epsilon_)
      : x(float_input(op, "x", x_)),
        gamma(optional_float_input(op, "gamma", gamma_)),
        beta(optional_float_input(op, "beta", beta_)),
        mean(optional_float_input(op, "mean", mean_)),
        variance(optional_float_input(op, "variance", variance_)),
        epsilon(real_option(op, "epsilon", epsilon_)) {
    if (x.ndim < 1 || x.shape[x.ndim - 1] < 1) {
      throw ValueError(message(op, ": x must have a last axis of at least one channel, got shape ",
                               x.shape_text()));
    }
    channels = x.shape[x.ndim - 1];
    rows = x.size / channels;
    expect_one_a_channel("gamma", gamma);
    expect_one_a_channel("beta", beta);
    expect_one_a_channel("mean", mean);
    expect_one_a_channel("variance", variance);
    if (static_cast<bool>(mean) != static_cast<bool>(variance)) {
      throw ValueError(message(op, ": mean and variance must be given both or neither, got only ",
                               mean ? "mean" : "variance"));
    }
    if (!(epsilon > 0.0)) {
      throw ValueError(message(op, ": epsilon must be greater than 0, got ", epsilon));
    }
  }

  void expect_one_a_channel(const char* name, const FloatInput& array) const {
    if (array) expect_shape(op, name, array, {channels}, "one value a channel");
  }

  void expect_rows() const {
    if (rows > 0) return;
    throw ValueError(message(op, ": the statistics of an empty batch do not exist, got x of shape ",
                             x.shape_text(), " and no mean and variance"));
  }

  Shape x_shape() const { return Shape(x.shape, x.shape + x.ndim); }

  batch_norm::Forward forward(const float* used_mean, const float* used_variance, float* y) const {
    return {rows,        channels,  epsilon,       x.data(), gamma.data(),
            beta.data(), used_mean, used_variance, y};
  }
};

// (y, mean, variance, saved): saved (2, channels) are the statistics again, for backward alone.
py::object forward_with_own_statistics(const Arguments& a) {
  a.expect_rows();
  FloatArray y = new_float_array(op, a.x_shape());
  FloatArray mean = new_float_array(op, {a.channels});
  FloatArray variance = new_float_array(op, {a.channels});
  FloatArray saved = new_float_array(op, {2, a.channels});
  float* y_out = y.mutable_data();
  float* mean_out = mean.mutable_data();
  float* variance_out = variance.mutable_data();
  float* saved_out = saved.mutable_data();
  const batch_norm::Forward p = a.forward(mean_out, variance_out, y_out);
  {
    const ReleaseGil release;
    batch_norm::kernels().statistics(a.rows, a.channels, p.x, mean_out, variance_out);
    copy_floats(mean_out, a.channels, saved_out);
    copy_floats(variance_out, a.channels, saved_out + a.channels);
    batch_norm::kernels().forward(p);
  }
  return py::make_tuple(std::move(y), std::move(mean), std::move(variance), std::move(saved));
}

py::object forward(py::object x, py::object gamma, py::object beta, py::object mean,
                   py::object variance, py::object epsilon) {
  const Arguments a(x, gamma, beta, mean, variance, epsilon);
  if (!a.mean) return forward_with_own_statistics(a);
  FloatArray y = new_float_array(op, a.x_shape());
  const batch_norm::Forward p = a.forward(a.mean.data(), a.variance.data(), y.mutable_data());
  {
    const ReleaseGil release;
    batch_norm::kernels().forward(p);
  }
  return y;
}

// saved: what forward_with_own_statistics kept, or None where mean and variance were given.
py::object backward(py::object dy_, py::object d_mean_, py::object d_variance_, py::object x,
                    py::object gamma, py::object beta, py::object mean, py::object variance,
                    py::object saved_, py::object epsilon, const py::tuple& needs,
                    const py::tuple& out) {
  const Arguments a(x, gamma, beta, mean, variance, epsilon);
  const FloatInput saved = optional_float_input(op, "saved", saved_);
  if (static_cast<bool>(saved) == static_cast<bool>(a.mean)) {
    throw ValueError(message(op, ": backward takes either saved or given statistics"));
  }
  if (saved) {
    expect_shape(op, "saved", saved, {2, a.channels});
    a.expect_rows();
  }
  const FloatInput dy = float_input(op, "dy", dy_);
  expect_shape(op, "dy", dy, a.x_shape());
  const FloatInput d_mean = optional_float_input(op, "dmean", d_mean_);
  a.expect_one_a_channel("dmean", d_mean);
  const FloatInput d_variance = optional_float_input(op, "dvariance", d_variance_);
  a.expect_one_a_channel("dvariance", d_variance);

  // x, gamma, beta, mean, variance
  ArgumentGradients gradients(op, 5, needs, out);
  batch_norm::Backward p{};
  p.rows = a.rows;
  p.channels = a.channels;
  p.epsilon = a.epsilon;
  p.own_statistics = static_cast<bool>(saved);
  p.dy = dy.data();
  p.x = a.x.data();
  p.gamma = a.gamma.data();
  p.mean = saved ? saved.data() : a.mean.data();
  p.variance = saved ? saved.data() + a.channels : a.variance.data();
  p.d_own_mean = d_mean.data();
  p.d_own_variance = d_variance.data();
  p.dx = gradients.place(0, true, a.x_shape());
  p.d_gamma = gradients.place(1, static_cast<bool>(a.gamma), {a.channels});
  p.d_beta = gradients.place(2, static_cast<bool>(a.beta), {a.channels});
  p.d_mean = gradients.place(3, static_cast<bool>(a.mean), {a.channels});
  p.d_variance = gradients.place(4, static_cast<bool>(a.variance), {a.channels});
  gradients.expect_separate_from_each_other();
  const std::pair<const char*, const FloatInput*> inputs[] = {
      {"dy", &dy},         {"dmean", &d_mean}, {"dvariance", &d_variance}, {"x", &a.x},
      {"gamma", &a.gamma}, {"mean", &a.mean},  {"variance", &a.variance},  {"saved", &saved}};
  for (const auto& [name, input] : inputs) gradients.expect_separate_from(name, *input);
  {
    const ReleaseGil release;
    batch_norm::kernels().backward(p);
  }
  return gradients.result();
}

}  // namespace

void bind_batch_norm(py::module_& module) {
  module.def("batch_norm_forward", &forward, py::arg("x"), py::arg("gamma"), py::arg("beta"),
             py::arg("mean"), py::arg("variance"), py::arg("epsilon"));
  module.def("batch_norm_backward", &backward, py::arg("dy"), py::arg("dmean"),
             py::arg("dvariance"), py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("mean"),
             py::arg("variance"), py::arg("saved"), py::arg("epsilon"), py::arg("needs"),
             py::arg("out"));
}

}  // namespace lamella
