#include "ops/optimizer/optimizer.h"

#include <cmath>
#include <limits>

#include "core/arguments.h"
#include "core/overlap.h"

namespace lamella {
namespace {

// The arrays of one step, all flat and of one size; the gradient is the only one that is read only.
class Step {
 public:
  Step(const char* op, py::handle param, py::handle grad) : op_(op) {
    param_ = writable("param", param);
    grad_ = readable("grad", grad);
  }

  float* param() const { return param_; }
  const float* grad() const { return grad_; }
  std::int64_t size() const { return size_; }

  float* slot(const char* name, py::handle object) { return writable(name, object); }
  float* optional_slot(const char* name, py::handle object) {
    return object.is_none() ? nullptr : writable(name, object);
  }

 private:
  float* writable(const char* name, py::handle object) {
    const Output output = writable_array(op_, name, object);
    add(name, output.data, object);
    return output.data;
  }

  const float* readable(const char* name, py::handle object) {
    const FloatInput input = float_input(op_, name, object);
    // A copy would be a silent slow path in every step of a training.
    if (!input.is_read_in_place()) {
      throw ValueError(message(op_, ": ", name, " must be C-contiguous and aligned"));
    }
    add(name, input.data(), object);
    return input.data();
  }

  void add(const char* name, const float* data, py::handle object) {
    const Shape shape = shape_of(object);
    if (shape.size() != 1) {
      throw ValueError(message(op_, ": ", name, " must be flat, got shape ", shape_text(shape)));
    }
    if (count_ == 0) size_ = shape[0];
    expect_shape(op_, name, shape.data(), 1, {size_}, "the shape of param");
    for (int i = 0; i < count_; ++i) {
      expect_separate(op_, names_[i], data_[i], size_, name, data, size_);
    }
    names_[count_] = name;
    data_[count_] = data;
    ++count_;
  }

  const char* op_;
  float* param_ = nullptr;
  const float* grad_ = nullptr;
  std::int64_t size_ = 0;
  int count_ = 0;
  const char* names_[5];
  const float* data_[5];
};

enum class Upper { none, inclusive_one, exclusive_one };

// A finite number >= 0, finite in float32 too; above 0 where `positive`, which 1e-60 is not there.
double number(const char* op, const char* name, py::handle object, Upper upper = Upper::none,
              bool positive = false) {
  const double value = real_option(op, name, object);
  const bool too_small = value < 0.0 || (positive && static_cast<float>(value) == 0.0f);
  const bool too_large = (upper == Upper::inclusive_one && value > 1.0) ||
                         (upper == Upper::exclusive_one && value >= 1.0) ||
                         value > double{std::numeric_limits<float>::max()};
  if (too_small || too_large) {
    const char* range = upper == Upper::inclusive_one   ? "lie in [0, 1]"
                        : upper == Upper::exclusive_one ? "lie in [0, 1)"
                        : positive                      ? "be positive and fit float32"
                                                        : "be at least 0 and fit float32";
    throw ValueError(message(op, ": ", name, " must ", range, ", got ", repr_text(object)));
  }
  return value;
}

float decay_option(const char* op, double learning_rate, py::handle weight_decay) {
  const auto decay = static_cast<float>(learning_rate * number(op, "weight_decay", weight_decay));
  if (std::isfinite(decay)) return decay;
  throw ValueError(message(op, ": learning_rate * weight_decay must fit float32, got ",
                           repr_text(weight_decay), " for weight_decay"));
}

optimizer::Average average(double beta) {
  return {static_cast<float>(beta), static_cast<float>(1.0 - beta)};
}

void sgd(py::object param, py::object grad, py::object velocity_, py::object learning_rate,
         py::object momentum, py::object nesterov, py::object weight_decay) {
  constexpr const char* op = "sgd_";
  optimizer::Sgd options;
  const double rate = number(op, "learning_rate", learning_rate);
  options.learning_rate = static_cast<float>(rate);
  options.momentum = static_cast<float>(number(op, "momentum", momentum, Upper::inclusive_one));
  options.nesterov = bool_option(op, "nesterov", nesterov);
  options.decay = decay_option(op, rate, weight_decay);
  Step step(op, param, grad);
  float* velocity = step.optional_slot("velocity", velocity_);
  if (velocity == nullptr && options.momentum != 0.0f) {
    throw ValueError(message(op, ": momentum needs velocity, got None"));
  }
  const ReleaseGil released;
  optimizer::kernels().sgd(options, step.size(), step.param(), step.grad(), velocity);
}

void rmsprop(py::object param, py::object grad, py::object square_, py::object mean_,
             py::object momentum_slot, py::object learning_rate, py::object rho_,
             py::object momentum_, py::object epsilon, py::object weight_decay) {
  constexpr const char* op = "rmsprop_";
  optimizer::RmsProp options;
  const double rate = number(op, "learning_rate", learning_rate);
  const double rho = number(op, "rho", rho_, Upper::exclusive_one);
  options.learning_rate = static_cast<float>(rate);
  options.rho = average(rho);
  options.momentum = static_cast<float>(number(op, "momentum", momentum_, Upper::inclusive_one));
  options.epsilon = static_cast<float>(number(op, "epsilon", epsilon, Upper::none, true));
  options.decay = decay_option(op, rate, weight_decay);
  Step step(op, param, grad);
  float* square = step.slot("square", square_);
  float* mean = step.optional_slot("mean", mean_);
  float* momentum = step.optional_slot("momentum_slot", momentum_slot);
  if (momentum == nullptr && options.momentum != 0.0f) {
    throw ValueError(message(op, ": momentum needs momentum_slot, got None"));
  }
  const ReleaseGil released;
  optimizer::kernels().rmsprop(options, step.size(), step.param(), step.grad(), square, mean,
                               momentum);
}

void adam(py::object param, py::object grad, py::object m_, py::object v_, py::object vhat_,
          py::object step_number, py::object learning_rate, py::object beta_1_, py::object beta_2_,
          py::object epsilon, py::object weight_decay) {
  constexpr const char* op = "adam_";
  const auto t = static_cast<double>(positive_int_option(op, "step", step_number));
  const double rate = number(op, "learning_rate", learning_rate);
  const double beta_1 = number(op, "beta_1", beta_1_, Upper::exclusive_one);
  const double beta_2 = number(op, "beta_2", beta_2_, Upper::exclusive_one);
  optimizer::Adam options;
  options.alpha =
      static_cast<float>(rate * std::sqrt(1.0 - std::pow(beta_2, t)) / (1.0 - std::pow(beta_1, t)));
  options.beta_1 = average(beta_1);
  options.beta_2 = average(beta_2);
  options.epsilon = static_cast<float>(number(op, "epsilon", epsilon, Upper::none, true));
  options.decay = decay_option(op, rate, weight_decay);
  if (!std::isfinite(options.alpha)) {
    throw ValueError(message(op, ": learning_rate must keep the step's factor finite, got ", rate));
  }
  Step step(op, param, grad);
  float* m = step.slot("m", m_);
  float* v = step.slot("v", v_);
  float* vhat = step.optional_slot("vhat", vhat_);
  const ReleaseGil released;
  optimizer::kernels().adam(options, step.size(), step.param(), step.grad(), m, v, vhat);
}

double squared_norm(py::object x_) {
  constexpr const char* op = "squared_norm";
  const FloatInput x = float_input(op, "x", x_);
  const float* const in = x.data();
  const ReleaseGil released;
  const std::int64_t blocks = (x.size + optimizer::norm_block - 1) / optimizer::norm_block;
  const Scratch<double> sums(op, blocks);
  optimizer::kernels().squared_norm(x.size, in, sums.get());
  HostCopy<double> copy;
  const double* const values = host_elements(copy, sums.get(), blocks);
  double total = 0.0;
  for (std::int64_t i = 0; i < blocks; ++i) total += values[i];
  return total;
}

// A finite number that is finite in float32 too, whichever its sign.
float float_option(const char* op, const char* name, py::handle object) {
  const auto value = static_cast<float>(real_option(op, name, object));
  if (std::isfinite(value)) return value;
  throw ValueError(message(op, ": ", name, " must fit float32, got ", repr_text(object)));
}

void scale(py::object x_, py::object factor_) {
  constexpr const char* op = "scale_";
  const float factor = float_option(op, "factor", factor_);
  const Output x = writable_array(op, "x", x_);
  const ReleaseGil released;
  optimizer::kernels().scale(factor, x.size, x.data);
}

void clip(py::object x_, py::object low_, py::object high_) {
  constexpr const char* op = "clip_";
  const float low = float_option(op, "low", low_);
  const float high = float_option(op, "high", high_);
  if (low > high) {
    throw ValueError(
        message(op, ": low must not exceed high, got ", double{low}, " and ", double{high}));
  }
  const Output x = writable_array(op, "x", x_);
  const ReleaseGil released;
  optimizer::kernels().clip(low, high, x.size, x.data);
}

}  // namespace

void bind_optimizer(py::module_& module) {
  module.def("sgd_", &sgd, py::arg("param"), py::arg("grad"), py::arg("velocity"),
             py::arg("learning_rate"), py::arg("momentum"), py::arg("nesterov"),
             py::arg("weight_decay"));
  module.def("rmsprop_", &rmsprop, py::arg("param"), py::arg("grad"), py::arg("square"),
             py::arg("mean"), py::arg("momentum_slot"), py::arg("learning_rate"), py::arg("rho"),
             py::arg("momentum"), py::arg("epsilon"), py::arg("weight_decay"));
  module.def("adam_", &adam, py::arg("param"), py::arg("grad"), py::arg("m"), py::arg("v"),
             py::arg("vhat"), py::arg("step"), py::arg("learning_rate"), py::arg("beta_1"),
             py::arg("beta_2"), py::arg("epsilon"), py::arg("weight_decay"));
  module.def("squared_norm", &squared_norm, py::arg("x"));
  module.def("scale_", &scale, py::arg("x"), py::arg("factor"));
  module.def("clip_", &clip, py::arg("x"), py::arg("low"), py::arg("high"));
}

}  // namespace lamella
