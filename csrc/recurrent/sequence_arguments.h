// The arguments that all recurrent ops have, checked; for their bindings.
#pragma once

#include <pybind11/numpy.h>

#include <string>
#include <vector>

#include "core/argument_gradients.h"
#include "core/steps.h"
#include "recurrent/sequence.h"

namespace lamella {

struct SequenceArguments {
  FloatInput x, kernel, recurrent_kernel, bias, h0, x_scale, h_scale, projection_kernel;
  std::int64_t batch, time, inputs, units;
  std::int64_t state_size;  // features of h: P with a projection_kernel (U, P), else U

  // Units as the kernels hold them, in blocks of 16 (recurrent/gate_panels.h).
  std::int64_t padded() const { return (units + 15) / 16 * 16; }
  std::int64_t padded_state() const { return (state_size + 15) / 16 * 16; }
  Shape state_shape() const { return {batch, state_size}; }
  Shape output_shape() const { return {batch, time, state_size}; }
};

// An optional array (N, width).
inline FloatInput optional_rows(const char* op, const char* name, py::handle object,
                                std::int64_t batch, std::int64_t width, const char* why) {
  FloatInput rows = optional_float_input(op, name, object);
  if (rows) expect_shape(op, name, rows, {batch, width}, why);
  return rows;
}

// units and state_size, and that recurrent_kernel (P, gates * U) fits them.
inline void check_units(const char* op, std::int64_t gates, SequenceArguments& a) {
  const std::string columns = gates == 1 ? "U" : std::to_string(gates) + "U";
  const std::string axes = (a.projection_kernel ? "(P, " : "(U, ") + columns + ")";
  expect_ndim(op, "recurrent_kernel", a.recurrent_kernel, 2, axes.c_str());
  const FloatInput& of_units = a.projection_kernel ? a.projection_kernel : a.recurrent_kernel;
  if (a.projection_kernel) {
    expect_ndim(op, "projection_kernel", a.projection_kernel, 2, "(U, P)");
    if (a.projection_kernel.shape[1] == 0) {
      throw ValueError(message(op, ": projection_kernel must have at least one column, got ",
                               a.projection_kernel.shape_text()));
    }
  }
  a.units = of_units.shape[0];
  if (a.units == 0) {
    throw ValueError(message(op, ": ", a.projection_kernel ? "projection" : "recurrent",
                             "_kernel must have at least one unit, got ", of_units.shape_text()));
  }
  a.state_size = a.projection_kernel ? a.projection_kernel.shape[1] : a.units;
  const std::string why = a.projection_kernel
                              ? "P rows and " + columns + " columns for projection_kernel (U, P)"
                              : columns + " columns for U rows";
  expect_shape(op, "recurrent_kernel", a.recurrent_kernel,
               {a.state_size, checked_multiply(op, "the gates", gates, a.units)}, why.c_str());
}

// bias_rows: 1 for a bias of (gates * units), 2 for one of (2, gates * units).
inline SequenceArguments sequence_arguments(const char* op, std::int64_t gates,
                                            std::int64_t bias_rows, py::handle x, py::handle kernel,
                                            py::handle recurrent_kernel, py::handle bias,
                                            py::handle h0, py::handle x_scale, py::handle h_scale,
                                            py::handle projection_kernel = py::none()) {
  SequenceArguments a;
  a.x = float_input(op, "x", x);
  a.kernel = float_input(op, "kernel", kernel);
  a.recurrent_kernel = float_input(op, "recurrent_kernel", recurrent_kernel);
  a.bias = optional_float_input(op, "bias", bias);
  a.projection_kernel = optional_float_input(op, "projection_kernel", projection_kernel);
  expect_ndim(op, "x", a.x, 3, "(N, T, D)");
  const std::string columns = gates == 1 ? "(D, U)" : "(D, " + std::to_string(gates) + "U)";
  expect_ndim(op, "kernel", a.kernel, 2, columns.c_str());
  a.batch = a.x.shape[0];
  a.time = a.x.shape[1];
  a.inputs = a.x.shape[2];
  if (a.time == 0 || a.inputs == 0) {
    throw ValueError(
        message(op, ": x must have at least one step and one feature, got ", a.x.shape_text()));
  }
  check_units(op, gates, a);
  const std::int64_t width = gates * a.units;
  expect_shape(op, "kernel", a.kernel, {a.inputs, width},
               "D rows for x (N, T, D), as many columns as recurrent_kernel");
  if (a.bias) {
    const Shape shape = bias_rows == 1 ? Shape{width} : Shape{bias_rows, width};
    expect_shape(op, "bias", a.bias, shape, "one value a column of the kernels");
  }
  a.h0 = optional_rows(op, "h0", h0, a.batch, a.state_size, "one row a sequence");
  a.x_scale = optional_rows(op, "x_scale", x_scale, a.batch, a.inputs, "one row a sequence");
  a.h_scale = optional_rows(op, "h_scale", h_scale, a.batch, a.state_size, "one row a sequence");
  // Rounding up to whole blocks of units at most doubles a width of 16 or more.
  checked_product(op, "the gates", {a.batch + 1, a.time + 1, 2 * gates, a.units + 16});
  checked_product(op, "the inputs", {a.batch + 1, a.time + 1, a.inputs + 64});
  checked_product(op, "the states", {a.batch + 1, a.time + 1, a.state_size + 16});
  checked_product(op, "the kernels", {2 * gates, a.units + 64, a.inputs + a.state_size + 64});
  return a;
}

// Which steps are valid, (N, T) bytes: `mask` where it is given, and t < lengths. None where all
// are. Which steps there are is the host's business, on every backend. The array is new: the caller
// may change his own before the backward pass.
inline py::object valid_steps(const char* op, const SequenceArguments& a, py::handle mask_,
                              py::handle lengths_) {
  if (mask_.is_none() && lengths_.is_none()) return py::none();
  const auto expect = [&](const char* name, const py::array& array, const Shape& shape,
                          const char* why) {
    const Shape actual(array.shape(), array.shape() + array.ndim());
    expect_shape(op, name, actual.data(), static_cast<int>(actual.size()), shape, why);
  };
  const bool* given = nullptr;
  py::object mask;
  if (!mask_.is_none()) {
    auto bools = host_bools(op, "mask", mask_);
    expect("mask", bools, {a.batch, a.time}, "one value a step");
    given = bools.data();
    mask = std::move(bools);
  }
  const std::int64_t* limits = nullptr;
  py::object lengths;
  if (!lengths_.is_none()) {
    auto indices = host_indices(op, "lengths", lengths_);
    expect("lengths", indices, {a.batch}, "one a sequence");
    limits = indices.data();
    lengths = std::move(indices);
    for (std::int64_t n = 0; n < a.batch; ++n) {
      if (limits[n] < 0 || limits[n] > a.time) {
        throw ValueError(message(op, ": lengths must lie in [0, ", a.time, "], got ", limits[n],
                                 " at position ", n));
      }
    }
  }
  py::array_t<std::uint8_t> valid(std::vector<py::ssize_t>{a.batch, a.time});
  std::uint8_t* to = valid.mutable_data();
  bool all = true;
  for (std::int64_t n = 0; n < a.batch; ++n) {
    for (std::int64_t t = 0; t < a.time; ++t) {
      const std::int64_t i = n * a.time + t;
      const bool on = (given == nullptr || given[i]) && (limits == nullptr || t < limits[n]);
      to[i] = on ? 1 : 0;
      all = all && on;
    }
  }
  if (all) return py::none();
  return valid;
}

// From what valid_steps gave.
inline Steps make_steps(const char* op, const SequenceArguments& a, py::handle valid,
                        bool go_backwards) {
  if (valid.is_none()) return Steps(op, a.batch, a.time, go_backwards);
  const py::object host = host_array(valid);
  const auto bytes = host ? py::array_t<std::uint8_t, py::array::c_style>::ensure(host)
                          : py::array_t<std::uint8_t, py::array::c_style>();
  if (bytes.size() != a.batch * a.time) {
    throw ValueError(message(op, ": valid must be what the forward pass gave"));
  }
  return Steps(op, a.batch, a.time, go_backwards, bytes.data());
}

// Gradients of results: dy[i] of shape shapes[i], or None.
inline FloatInput optional_gradient(const char* op, const char* name, py::handle object,
                                    const Shape& shape) {
  FloatInput gradient = optional_float_input(op, name, object);
  if (gradient) expect_shape(op, name, gradient, shape);
  return gradient;
}

// The arrays read. Everything has been checked, and nothing written.
inline recurrent::Sequence read_sequence(const char* op, const SequenceArguments& a,
                                         const Steps& steps) {
  return {op,
          &steps,
          a.inputs,
          a.units,
          a.state_size,
          a.x.data(),
          a.kernel.data(),
          a.recurrent_kernel.data(),
          a.bias.data(),
          nullptr,
          a.h0.data(),
          a.x_scale.data(),
          a.h_scale.data()};
}

// Without the interpreter's lock. Scratch memory that is not there is the op's.
template <class Compute>
void compute_sequence(const char* op, const Compute& compute) {
  const ReleaseGil release;
  try {
    compute();
  } catch (const MemoryError& error) {
    throw MemoryError(op, error.bytes);
  }
}

}  // namespace lamella
