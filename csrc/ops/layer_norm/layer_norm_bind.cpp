#include "ops/layer_norm/layer_norm.h"

#include <algorithm>

#include "core/argument_gradients.h"

namespace lamella {
namespace {

// The axes of x whose elements share their statistics. The kernels want them last: where they are
// not, arrays are copied there and results back.
class Axes {
 public:
  Axes(const char* op, py::handle axis, const FloatInput& x) : op_(op), shape_(shape_of(x)) {
    const std::vector<bool> normalized = chosen(axis, x);
    for (const bool last : {false, true}) {
      for (std::size_t i = 0; i < shape_.size(); ++i) {
        if (normalized[i] != last) continue;
        in_place_ = in_place_ && i == order_.size();
        order_.push_back(i);
        moved_.push_back(shape_[i]);
        if (last) parameters_.push_back(shape_[i]);
      }
    }
    for (const std::int64_t n : parameters_) size_ = checked_multiply(op, "a row", size_, n);
    if (size_ == 0) {
      throw ValueError(message(op, ": x must not be empty along the axes to normalize, got shape ",
                               x.shape_text(), " and axis ", repr_text(axis)));
    }
    rows_ = x.size / size_;
  }

  std::int64_t rows() const { return rows_; }
  std::int64_t size() const { return size_; }
  const Shape& shape() const { return shape_; }            // of x
  const Shape& moved_shape() const { return moved_; }      // with the normalized axes last
  const Shape& parameters() const { return parameters_; }  // of gamma and beta
  bool in_place() const { return in_place_; }

  // `input`, of x's shape, with the normalized axes last.
  FloatInput moved(const FloatInput& input, py::handle array) const {
    if (in_place_ || !input) return input;
    return {op_, transposed_copy(op_, array, order_)};
  }

  // The elements of `moved` in an array of x's shape.
  void move_back(py::handle moved, const py::object& array) const {
    copy_transposed(moved, array, order_);
  }
  py::object back(FloatArray moved) const {
    if (in_place_) return moved;
    FloatArray array = new_float_array(op_, shape_);
    move_back(moved, array);
    return array;
  }

 private:
  static Shape shape_of(const FloatInput& x) { return Shape(x.shape, x.shape + x.ndim); }

  std::vector<std::int64_t> listed(py::handle axis) const {
    if (as_index(axis)) return {int_option(op_, "axis", axis)};
    const bool several = PyTuple_Check(axis.ptr()) || PyList_Check(axis.ptr());
    std::vector<std::int64_t> axes;
    if (several) {
      for (const py::handle each : py::reinterpret_borrow<py::sequence>(axis)) {
        axes.push_back(int_option(op_, "axis", each));
      }
    }
    if (!axes.empty()) return axes;
    throw ValueError(
        message(op_, ": axis must be an integer or a tuple of integers, got ", repr_text(axis)));
  }

  std::vector<bool> chosen(py::handle axis, const FloatInput& x) const {
    std::vector<bool> normalized(shape_.size());
    for (const std::int64_t given : listed(axis)) {
      if (given < -x.ndim || given >= x.ndim) {
        throw ValueError(message(op_, ": axis must lie in [", -x.ndim, ", ", x.ndim,
                                 ") for an array of shape ", x.shape_text(), ", got ", given));
      }
      const auto position = static_cast<std::size_t>(given < 0 ? given + x.ndim : given);
      if (normalized[position]) {
        throw ValueError(message(op_, ": axis must not name an axis twice, got ", repr_text(axis),
                                 " for an array of shape ", x.shape_text()));
      }
      normalized[position] = true;
    }
    return normalized;
  }

  const char* op_;
  Shape shape_;
  Shape moved_;
  Shape parameters_;
  std::vector<std::size_t> order_;
  bool in_place_ = true;
  std::int64_t rows_ = 0;
  std::int64_t size_ = 1;
};

// The arguments of both directions, checked.
struct Arguments {
  const char* op;
  bool centered;  // layer_norm, else rms_norm
  FloatInput x;
  Axes axes;
  FloatInput gamma;
  FloatInput beta;

  Arguments(bool centered_, py::handle x_, py::handle gamma_, py::handle beta_, py::handle axis)
      : op(centered_ ? "layer_norm" : "rms_norm"),
        centered(centered_),
        x(float_input(op, "x", x_)),
        axes(op, axis, x),
        gamma(optional_float_input(op, "gamma", gamma_)),
        beta(optional_float_input(op, "beta", beta_)) {
    expect_parameter("gamma", gamma);
    expect_parameter("beta", beta);
    x = axes.moved(x, x_);
  }

  void expect_parameter(const char* name, const FloatInput& array) const {
    if (array) expect_shape(op, name, array, axes.parameters(), "x's sizes along axis");
  }

  // An optional array of x's shape.
  FloatInput like_x(const char* name, py::handle object, const char* why = "") const {
    const FloatInput array = optional_float_input(op, name, object);
    if (array) expect_shape(op, name, array, axes.shape(), why);
    return axes.moved(array, object);
  }

  layer_norm::Rows rows() const { return {op, axes.rows(), axes.size()}; }
  Shape saved_shape() const { return {centered ? 3 : 1, axes.rows()}; }

  // What `saved` of that shape holds: the scales, then what only layer_norm has.
  layer_norm::Statistics statistics(float* saved) const {
    if (saved == nullptr || !centered) return {nullptr, saved, nullptr};
    return {saved + axes.rows(), saved, saved + 2 * axes.rows()};
  }
};

// (y, s or None, saved or None)
py::tuple forward(bool centered, py::handle x, py::handle gamma, py::handle beta,
                  py::handle residual_, py::handle axis, py::handle epsilon_, bool saves) {
  const Arguments a(centered, x, gamma, beta, axis);
  const FloatInput residual = a.like_x("residual", residual_, "that of x");
  const double epsilon = real_option(a.op, "epsilon", epsilon_);
  if (!(epsilon > 0.0)) {
    throw ValueError(message(a.op, ": epsilon must be greater than 0, got ", epsilon));
  }
  FloatArray y = new_float_array(a.op, a.axes.moved_shape());
  py::object s = py::none(), saved = py::none();
  layer_norm::Forward p{};
  p.shape = a.rows();
  p.epsilon = epsilon;
  p.y = y.mutable_data();
  if (residual) {
    FloatArray sum = new_float_array(a.op, a.axes.moved_shape());
    p.s = sum.mutable_data();
    s = std::move(sum);
  }
  if (saves) {
    FloatArray statistics = new_float_array(a.op, a.saved_shape());
    p.saved = a.statistics(statistics.mutable_data());
    saved = std::move(statistics);
  }
  if (a.x.size > 0) {
    p.x = a.x.data();
    p.residual = residual.data();
    p.gamma = a.gamma.data();
    p.beta = a.beta.data();
    const ReleaseGil release;
    layer_norm::kernels().forward(centered, p);
  }
  if (residual) s = a.axes.back(py::reinterpret_steal<FloatArray>(s.release()));
  return py::make_tuple(a.axes.back(std::move(y)), s, saved);
}

// x is s where there was a residual. The gradient of the residual is the array of dx, unless `out`
// has a place of its own for it.
py::object backward(bool centered, py::handle dy_, py::handle ds_, py::handle x, py::handle gamma,
                    py::handle beta, bool has_residual, py::handle saved_, py::handle axis,
                    const py::tuple& needs, const py::tuple& out) {
  const Arguments a(centered, x, gamma, beta, axis);
  const FloatInput saved = float_input(a.op, "saved", saved_);
  expect_shape(a.op, "saved", saved, a.saved_shape());
  float_input(a.op, "dy", dy_);
  const FloatInput dy = a.like_x("dy", dy_);
  const FloatInput ds = a.like_x("ds", ds_);

  // x, gamma, beta of layer_norm, residual
  const std::size_t residual_at = centered ? 3 : 2;
  ArgumentGradients gradients(a.op, residual_at + 1, needs, out);
  const bool shares = has_residual && gradients.needs(0) && gradients.needs(residual_at) &&
                      !gradients.has_place(residual_at);
  layer_norm::Backward p{};
  p.shape = a.rows();
  p.dx = gradients.place(0, true, a.axes.shape());
  p.dresidual = shares ? nullptr : gradients.place(residual_at, has_residual, a.axes.shape());
  p.dgamma = gradients.place(1, static_cast<bool>(a.gamma), a.axes.parameters());
  if (centered) p.dbeta = gradients.place(2, static_cast<bool>(a.beta), a.axes.parameters());
  p.dy = dy.data();
  p.ds = ds.data();
  p.s = a.x.data();
  p.gamma = a.gamma.data();
  // The kernel reads them only.
  p.saved = a.statistics(const_cast<float*>(saved.data()));
  gradients.expect_separate_from_each_other();
  const std::pair<const char*, const FloatInput*> inputs[] = {
      {"dy", &dy}, {"ds", &ds}, {"x", &a.x}, {"gamma", &a.gamma}, {"saved", &saved}};
  for (const auto& [name, input] : inputs) gradients.expect_separate_from(name, *input);

  std::pair<float**, std::size_t> large[] = {{&p.dx, 0}, {&p.dresidual, residual_at}};
  py::object moved[2];
  if (!a.axes.in_place()) {
    for (std::size_t i = 0; i < 2; ++i) {
      if (*large[i].first == nullptr) continue;
      FloatArray array = new_float_array(a.op, a.axes.moved_shape());
      *large[i].first = array.mutable_data();
      moved[i] = std::move(array);
    }
  }
  {
    const ReleaseGil release;
    layer_norm::kernels().backward(centered, p);
  }
  for (std::size_t i = 0; i < 2; ++i) {
    if (moved[i]) a.axes.move_back(moved[i], gradients.array(large[i].second));
  }
  py::tuple result = gradients.result();
  if (shares) result[residual_at] = result[0];
  return result;
}

}  // namespace

void bind_layer_norm(py::module_& module) {
  module.def(
      "layer_norm_forward",
      [](py::object x, py::object gamma, py::object beta, py::object residual, py::object axis,
         py::object epsilon,
         bool saves) { return forward(true, x, gamma, beta, residual, axis, epsilon, saves); },
      py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("residual"), py::arg("axis"),
      py::arg("epsilon"), py::arg("saves"));
  module.def(
      "layer_norm_backward",
      [](py::object dy, py::object ds, py::object x, py::object gamma, py::object beta,
         bool has_residual, py::object saved, py::object axis, const py::tuple& needs,
         const py::tuple& out) {
        return backward(true, dy, ds, x, gamma, beta, has_residual, saved, axis, needs, out);
      },
      py::arg("dy"), py::arg("ds"), py::arg("x"), py::arg("gamma"), py::arg("beta"),
      py::arg("has_residual"), py::arg("saved"), py::arg("axis"), py::arg("needs"), py::arg("out"));
  module.def(
      "rms_norm_forward",
      [](py::object x, py::object gamma, py::object residual, py::object axis, py::object epsilon,
         bool saves) {
        return forward(false, x, gamma, py::none(), residual, axis, epsilon, saves);
      },
      py::arg("x"), py::arg("gamma"), py::arg("residual"), py::arg("axis"), py::arg("epsilon"),
      py::arg("saves"));
  module.def(
      "rms_norm_backward",
      [](py::object dy, py::object ds, py::object x, py::object gamma, bool has_residual,
         py::object saved, py::object axis, const py::tuple& needs, const py::tuple& out) {
        return backward(false, dy, ds, x, gamma, py::none(), has_residual, saved, axis, needs, out);
      },
      py::arg("dy"), py::arg("ds"), py::arg("x"), py::arg("gamma"), py::arg("has_residual"),
      py::arg("saved"), py::arg("axis"), py::arg("needs"), py::arg("out"));
}

}  // namespace lamella
