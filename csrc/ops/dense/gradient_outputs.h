// Where the gradients of x, kernel and bias go, for the bindings of dense and the convolutions.
#pragma once

#include "core/arguments.h"
#include "core/overlap.h"

namespace lamella {

// Which gradients the caller wants, and the arrays for them, None where a new one is made.
struct WantedGradients {
  bool x, kernel, bias;
  py::object x_out, kernel_out, bias_out;
};

// A gradient nobody wants has null data, and None as its array.
struct GradientOutputs {
  Output dx, dkernel, dbias;

  py::tuple arrays() const { return py::make_tuple(dx.array, dkernel.array, dbias.array); }
};

// `results` is the size of bias. ValueError where an array of the caller's overlaps dy, x, kernel,
// what forward saved, or another one of them: they are read while the gradients are written.
inline GradientOutputs gradient_outputs(const char* op, const WantedGradients& wanted,
                                        const FloatInput& dy, const FloatInput& x,
                                        const FloatInput& kernel, const FloatInput& saved,
                                        std::int64_t results) {
  const auto shape = [](const FloatInput& a) { return Shape(a.shape, a.shape + a.ndim); };
  GradientOutputs g;
  g.dx.array = g.dkernel.array = g.dbias.array = py::none();
  if (wanted.x) g.dx = output_array(op, "out[0]", wanted.x_out, shape(x));
  if (wanted.kernel) g.dkernel = output_array(op, "out[1]", wanted.kernel_out, shape(kernel));
  if (wanted.bias) g.dbias = output_array(op, "out[2]", wanted.bias_out, {results});
  const auto separate = [&](const char* name, const Output& output, const char* other,
                            const float* data, std::int64_t size) {
    if (output.data != nullptr) {
      expect_separate(op, name, output.data, output.size, other, data, size);
    }
  };
  const auto read_only = [&](const char* name, const Output& output) {
    separate(name, output, "dy", dy.data(), dy.size);
    separate(name, output, "x", x.data(), x.size);
    separate(name, output, "kernel", kernel.data(), kernel.size);
    separate(name, output, "the result", saved.data(), saved.size);
  };
  read_only("out[0]", g.dx);
  read_only("out[1]", g.dkernel);
  read_only("out[2]", g.dbias);
  separate("out[0]", g.dx, "out[1]", g.dkernel.data, g.dkernel.size);
  separate("out[0]", g.dx, "out[2]", g.dbias.data, g.dbias.size);
  separate("out[1]", g.dkernel, "out[2]", g.dbias.data, g.dbias.size);
  return g;
}

}  // namespace lamella
