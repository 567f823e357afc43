// sparse_categorical_crossentropy, categorical_crossentropy, binary_crossentropy.
#include "core/overlap.h"
#include "ops/crossentropy/crossentropy.h"

namespace lamella {
namespace {

using crossentropy::Problem;
using crossentropy::SparseLabels;

// The arguments all three have, checked; the arrays are kept alive here.
struct Arguments {
  FloatInput y_pred;
  FloatInput class_weights;
  std::int64_t rows = 0;
  std::int64_t classes = 0;

  Arguments(const char* op, py::handle y_pred_, py::handle from_logits, py::handle smoothing,
            py::handle class_weights_)
      : y_pred(float_input(op, "y_pred", y_pred_)),
        class_weights(optional_float_input(op, "class_weights", class_weights_)) {
    expect_ndim(op, "y_pred", y_pred, 2, "(batch, classes)");
    classes = y_pred.shape[1];
    if (classes < 1) {
      throw ValueError(
          message(op, ": y_pred must have at least one class, got shape ", y_pred.shape_text()));
    }
    if (class_weights) {
      expect_shape(op, "class_weights", class_weights, {classes}, "one value a class");
    }
    const double s = real_option(op, "label_smoothing", smoothing);
    if (s < 0.0 || s > 1.0) {
      throw ValueError(message(op, ": label_smoothing must lie in [0, 1], got ", s));
    }
    rows = y_pred.shape[0];
    smoothing_ = static_cast<float>(s);
    from_logits_ = bool_option(op, "from_logits", from_logits);
  }

  // To be called once the labels are checked too.
  Problem problem() const {
    return {rows, classes, from_logits_, smoothing_, y_pred.data(), class_weights.data()};
  }

  Shape loss_shape() const { return {rows}; }
  Shape prediction_shape() const { return {rows, classes}; }

  FloatInput soft_labels(const char* op, py::handle labels_) const {
    FloatInput labels = float_input(op, "labels", labels_);
    expect_shape(op, "labels", labels, prediction_shape(), "that of y_pred");
    return labels;
  }

 private:
  float smoothing_ = 0.0f;
  bool from_logits_ = false;
};

struct CheckedLabels {
  Input<std::int64_t> array;
  SparseLabels labels;

  CheckedLabels(const char* op, py::handle labels_, py::handle ignore_index, const Arguments& p)
      : array(index_input(op, "labels", labels_)) {
    expect_shape(op, "labels", array, {p.rows}, "one class a row of y_pred");
    const bool ignores = !ignore_index.is_none();
    labels = {array.data(), ignores, ignores ? int_option(op, "ignore_index", ignore_index) : 0};
    const std::int64_t* const host = array.host_data();
    for (std::int64_t row = 0; row < p.rows; ++row) {
      const std::int64_t label = host[row];
      if (label >= 0 && label < p.classes) continue;
      if (ignores && label == labels.ignore_index) continue;
      throw IndexError(
          message(op, ": labels must lie in [0, ", p.classes, "), got ", label, " in row ", row));
    }
  }
};

template <class Compute>
py::object new_loss(const char* op, const Arguments& arguments, const Compute& compute) {
  FloatArray loss = new_float_array(op, arguments.loss_shape());
  float* out = loss.mutable_data();
  const Problem problem = arguments.problem();
  {
    const ReleaseGil release;
    compute(problem, out);
  }
  return loss;
}

// compute(problem, dy, d_pred); `separate`: float labels that `out` must not overlap either.
template <class Compute>
py::object new_gradient(const char* op, const Arguments& arguments, const FloatInput& separate,
                        py::handle dy_, py::handle out, const Compute& compute) {
  const FloatInput dy = float_input(op, "dy", dy_);
  expect_shape(op, "dy", dy, arguments.loss_shape());
  const Output d_pred = output_array(op, "out", out, arguments.prediction_shape());
  const auto expect_separate_from = [&](const char* name, const FloatInput& input) {
    expect_separate(op, "out", d_pred.data, d_pred.size, name, input.data(), input.size);
  };
  expect_separate_from("dy", dy);
  expect_separate_from("y_pred", arguments.y_pred);
  if (arguments.class_weights) expect_separate_from("class_weights", arguments.class_weights);
  if (separate) expect_separate_from("labels", separate);
  const float* const gradient = dy.data();
  const Problem problem = arguments.problem();
  {
    const ReleaseGil release;
    compute(problem, gradient, d_pred.data);
  }
  return d_pred.array;
}

py::object sparse_forward(py::object y_pred, py::object labels, py::object from_logits,
                          py::object label_smoothing, py::object class_weights,
                          py::object ignore_index) {
  const char* op = "sparse_categorical_crossentropy";
  const Arguments arguments(op, y_pred, from_logits, label_smoothing, class_weights);
  const CheckedLabels checked(op, labels, ignore_index, arguments);
  return new_loss(op, arguments, [&](const Problem& p, float* loss) {
    crossentropy::kernels().sparse_forward(p, checked.labels, loss);
  });
}

py::object sparse_backward(py::object dy, py::object y_pred, py::object labels,
                           py::object from_logits, py::object label_smoothing,
                           py::object class_weights, py::object ignore_index, py::object out) {
  const char* op = "sparse_categorical_crossentropy";
  const Arguments arguments(op, y_pred, from_logits, label_smoothing, class_weights);
  // Again: the caller may have changed them since the forward pass.
  const CheckedLabels checked(op, labels, ignore_index, arguments);
  return new_gradient(
      op, arguments, {}, dy, out, [&](const Problem& p, const float* gradient, float* d_pred) {
        crossentropy::kernels().sparse_backward(p, checked.labels, gradient, d_pred);
      });
}

py::object categorical_forward(py::object y_pred, py::object labels_, py::object from_logits,
                               py::object label_smoothing, py::object class_weights) {
  const char* op = "categorical_crossentropy";
  const Arguments arguments(op, y_pred, from_logits, label_smoothing, class_weights);
  const FloatInput labels = arguments.soft_labels(op, labels_);
  const float* const labels_data = labels.data();
  return new_loss(op, arguments, [&](const Problem& p, float* loss) {
    crossentropy::kernels().categorical_forward(p, labels_data, loss);
  });
}

py::object categorical_backward(py::object dy, py::object y_pred, py::object labels_,
                                py::object from_logits, py::object label_smoothing,
                                py::object class_weights, py::object out) {
  const char* op = "categorical_crossentropy";
  const Arguments arguments(op, y_pred, from_logits, label_smoothing, class_weights);
  const FloatInput labels = arguments.soft_labels(op, labels_);
  const float* const labels_data = labels.data();
  return new_gradient(
      op, arguments, labels, dy, out, [&](const Problem& p, const float* gradient, float* d_pred) {
        crossentropy::kernels().categorical_backward(p, labels_data, gradient, d_pred);
      });
}

py::object binary_forward(py::object y_pred, py::object labels_, py::object from_logits,
                          py::object label_smoothing) {
  const char* op = "binary_crossentropy";
  const Arguments arguments(op, y_pred, from_logits, label_smoothing, py::none());
  const FloatInput labels = arguments.soft_labels(op, labels_);
  const float* const labels_data = labels.data();
  return new_loss(op, arguments, [&](const Problem& p, float* loss) {
    crossentropy::binary::kernels().forward(p, labels_data, loss);
  });
}

py::object binary_backward(py::object dy, py::object y_pred, py::object labels_,
                           py::object from_logits, py::object label_smoothing, py::object out) {
  const char* op = "binary_crossentropy";
  const Arguments arguments(op, y_pred, from_logits, label_smoothing, py::none());
  const FloatInput labels = arguments.soft_labels(op, labels_);
  const float* const labels_data = labels.data();
  return new_gradient(op, arguments, labels, dy, out,
                      [&](const Problem& p, const float* gradient, float* d_pred) {
                        crossentropy::binary::kernels().backward(p, labels_data, gradient, d_pred);
                      });
}

}  // namespace

void bind_crossentropy(py::module_& module) {
  module.def("sparse_categorical_crossentropy_forward", &sparse_forward, py::arg("y_pred"),
             py::arg("labels"), py::arg("from_logits"), py::arg("label_smoothing"),
             py::arg("class_weights"), py::arg("ignore_index"));
  module.def("sparse_categorical_crossentropy_backward", &sparse_backward, py::arg("dy"),
             py::arg("y_pred"), py::arg("labels"), py::arg("from_logits"),
             py::arg("label_smoothing"), py::arg("class_weights"), py::arg("ignore_index"),
             py::arg("out") = py::none());
  module.def("categorical_crossentropy_forward", &categorical_forward, py::arg("y_pred"),
             py::arg("labels"), py::arg("from_logits"), py::arg("label_smoothing"),
             py::arg("class_weights"));
  module.def("categorical_crossentropy_backward", &categorical_backward, py::arg("dy"),
             py::arg("y_pred"), py::arg("labels"), py::arg("from_logits"),
             py::arg("label_smoothing"), py::arg("class_weights"), py::arg("out") = py::none());
  module.def("binary_crossentropy_forward", &binary_forward, py::arg("y_pred"), py::arg("labels"),
             py::arg("from_logits"), py::arg("label_smoothing"));
  module.def("binary_crossentropy_backward", &binary_backward, py::arg("dy"), py::arg("y_pred"),
             py::arg("labels"), py::arg("from_logits"), py::arg("label_smoothing"),
             py::arg("out") = py::none());
}

}  // namespace lamella
