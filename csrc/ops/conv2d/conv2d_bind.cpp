// conv2d, conv1d and conv2d_transpose: arrays in and out.
#include <algorithm>

#include "core/window.h"
#include "ops/activation/activation_bind.h"
#include "ops/conv2d/conv2d.h"
#include "ops/dense/gradient_outputs.h"

namespace lamella {
namespace {

using activation::Activation;
using conv2d::Problem;

struct Options {
  py::object strides, padding, dilation, groups, activation;
};

// (N,H,W,C) images seen as two axes more or less: conv1d works on (N,1,T,C).
struct Image {
  FloatInput array;
  std::int64_t batch, height, width, channels;
};

Image image(const char* op, const char* name, FloatInput x, bool one_axis) {
  if (one_axis) {
    expect_ndim(op, name, x, 3, "(batch, time, channels)");
    const auto* s = x.shape;
    return {std::move(x), s[0], 1, s[1], s[2]};
  }
  expect_ndim(op, name, x, 4, "(batch, height, width, channels)");
  const auto* s = x.shape;
  return {std::move(x), s[0], s[1], s[2], s[3]};
}

struct Filter {
  FloatInput array;
  std::int64_t height, width, third, fourth;  // third: channels a group
};

Filter filter(const char* op, FloatInput k, bool one_axis,
              const char* axes = "(height, width, channels / groups, filters)") {
  Filter f;
  if (one_axis) {
    expect_ndim(op, "kernel", k, 3, "(width, channels / groups, filters)");
    f = {std::move(k), 1, 0, 0, 0};
    f.width = f.array.shape[0];
    f.third = f.array.shape[1];
    f.fourth = f.array.shape[2];
  } else {
    expect_ndim(op, "kernel", k, 4, axes);
    f = {std::move(k), 0, 0, 0, 0};
    f.height = f.array.shape[0];
    f.width = f.array.shape[1];
    f.third = f.array.shape[2];
    f.fourth = f.array.shape[3];
  }
  if (f.array.size == 0) {
    throw ValueError(message(op, ": kernel must not be empty, got shape ", f.array.shape_text()));
  }
  return f;
}

std::int64_t group_count(const char* op, const Options& o, std::int64_t channels,
                         std::int64_t filters) {
  const std::int64_t groups = positive_int_option(op, "groups", o.groups);
  if (channels % groups != 0 || filters % groups != 0) {
    throw ValueError(message(op, ": groups must divide the channels and the filters, got groups=",
                             groups, " for ", channels, " channels and ", filters, " filters"));
  }
  return groups;
}

std::array<std::int64_t, 2> window_option(const char* op, const char* name,
                                          const py::object& object, bool one_axis) {
  if (one_axis) {
    if (PyTuple_Check(object.ptr()) || PyList_Check(object.ptr())) {
      const auto sequence = py::reinterpret_borrow<py::sequence>(object);
      if (sequence.size() == 1) return {1, positive_int_option(op, name, sequence[0])};
    }
    return {1, positive_int_option(op, name, object)};
  }
  return positive_int_pair_option(op, name, object);
}

// conv1d's paddings in conv2d's form: "causal" pads (kernel - 1) * dilation in front; p pads both
// ends, (before, after) each.
py::object padding_1d(const char* op, const py::object& padding, std::int64_t kernel,
                      std::int64_t dilation) {
  const auto row = [](py::object before, py::object after) {
    return py::make_tuple(py::make_tuple(0, 0), py::make_tuple(before, after));
  };
  if (is_text(padding, "causal")) {
    const std::int64_t before = checked_multiply(op, "the padded input", kernel - 1, dilation);
    return row(py::int_(before), py::int_(0));
  }
  if (PyUnicode_Check(padding.ptr())) {
    if (is_text(padding, "valid") || is_text(padding, "same")) return padding;
    throw ValueError(message(op,
                             ": padding must be \"valid\", \"same\", \"causal\", an integer or "
                             "(before, after), got ",
                             repr_text(padding)));
  }
  const auto pair = int_pair_option(op, "padding", padding);
  if (pair[0] < 0 || pair[1] < 0) {
    throw ValueError(message(op, ": padding must not be negative, got ", repr_text(padding)));
  }
  return row(py::int_(pair[0]), py::int_(pair[1]));
}

std::int64_t padded_size(const char* op, const WindowAxis& a) {
  constexpr const char* what = "the padded input";
  return checked_add(op, what, checked_add(op, what, a.input, a.pad_before), a.pad_after);
}

// Whatever kernels multiply sizes to must fit 63 bits: positions of the padded image and of the
// result, on either axis reached twice as far, times four bytes a float and 1024 threads.
void check_sizes(const char* op, const Problem& p) {
  constexpr std::int64_t bytes = 4 * 4 * 1024;
  const std::int64_t channels = std::max(p.channels, p.filters);
  checked_product(op, "the padded input",
                  {p.batch, padded_size(op, p.height), padded_size(op, p.width), channels}, bytes);
  checked_product(op, "the result", {p.batch, p.height.output, p.width.output, channels}, bytes);
}

// A stride beyond the padded input is never taken: a smaller one does the same and cannot overflow.
WindowAxis with_small_stride(const char* op, WindowAxis a) {
  a.stride = std::min(a.stride, padded_size(op, a));
  return a;
}

Problem conv_problem(const char* op, const Image& x, const Filter& k, const Options& o,
                     bool one_axis) {
  Problem p;
  p.batch = x.batch;
  p.channels = x.channels;
  p.filters = k.fourth;
  if (x.channels == 0) {
    throw ValueError(
        message(op, ": x must have at least one channel, got shape ", x.array.shape_text()));
  }
  p.groups = group_count(op, o, p.channels, p.filters);
  if (k.third != p.channels / p.groups) {
    throw ValueError(message(op, ": kernel must have channels / groups = ", p.channels / p.groups,
                             " on its last axis but one, got kernel ", k.array.shape_text(),
                             " for x ", x.array.shape_text(), " and groups=", p.groups));
  }
  const auto strides = window_option(op, "strides", o.strides, one_axis);
  const auto dilation = window_option(op, "dilation", o.dilation, one_axis);
  const Padding padding =
      parse_padding(op, one_axis ? padding_1d(op, o.padding, k.width, dilation[1]) : o.padding);
  p.height = with_small_stride(
      op, window_axis(op, "height", x.height, k.height, strides[0], dilation[0], padding, 0));
  p.width = with_small_stride(op, window_axis(op, one_axis ? "time" : "width", x.width, k.width,
                                              strides[1], dilation[1], padding, 1));
  check_sizes(op, p);
  return p;
}

// One axis of a transposed convolution as the convolution it is the gradient of: `size` outputs
// there are the inputs here. The output's size follows Keras.
WindowAxis transposed_axis(const char* op, const char* axis, std::int64_t size, std::int64_t kernel,
                           std::int64_t stride, std::int64_t dilation, const Padding& padding,
                           int index, const py::object& output_padding) {
  if (size == 0) {
    throw ValueError(message(op, ": x must not be empty along its ", axis));
  }
  const std::int64_t extent =
      checked_add(op, "the kernel", checked_multiply(op, "the kernel", kernel - 1, dilation), 1);
  const std::int64_t full =
      checked_add(op, "the result", checked_multiply(op, "the result", size - 1, stride), extent);
  std::int64_t extra = 0;
  const bool given = !output_padding.is_none();
  if (given) {
    const auto pair = int_pair_option(op, "output_padding", output_padding);
    extra = pair[static_cast<std::size_t>(index)];
    if (extra < 0 || extra >= std::max(stride, dilation)) {
      throw ValueError(message(op, ": output_padding must lie in [0, max(strides, dilation)), got ",
                               repr_text(output_padding)));
    }
  }
  std::int64_t output = 0, crop = 0;
  switch (padding.kind) {
    case Padding::Kind::valid:
      output = checked_add(op, "the result", full,
                           given ? extra : std::max<std::int64_t>(stride - extent, 0));
      break;
    case Padding::Kind::same:
      output = given ? checked_add(op, "the result", full - 2 * (extent / 2), extra)
                     : checked_multiply(op, "the result", size, stride);
      crop = std::max<std::int64_t>((full - output) / 2, 0);
      break;
    case Padding::Kind::explicit_sizes: {
      const auto& sizes = padding.sizes[static_cast<std::size_t>(index)];
      crop = sizes[0];
      output = checked_add(op, "the result",
                           full - checked_add(op, "the padding", sizes[0], sizes[1]), extra);
      break;
    }
  }
  if (output < 1) {
    throw ValueError(message(op, ": padding leaves nothing of the result along its ", axis,
                             ", which has ", full, " positions without it"));
  }
  return with_small_stride(op, {output, kernel, stride, dilation, crop,
                                std::max<std::int64_t>(0, full - crop - output), size});
}

// The convolution whose input gradient this transposed convolution is: its input is our result.
Problem transposed_problem(const char* op, const Image& x, const Filter& k, const Options& o,
                           const py::object& output_padding) {
  Problem p;
  p.batch = x.batch;
  p.filters = k.fourth;
  if (x.channels != p.filters || x.channels == 0) {
    throw ValueError(message(op,
                             ": kernel must have as many channels on its last axis as x, got "
                             "kernel ",
                             k.array.shape_text(), " for x ", x.array.shape_text()));
  }
  const std::int64_t groups = positive_int_option(op, "groups", o.groups);
  if (p.filters % groups != 0) {
    throw ValueError(message(op, ": groups must divide the channels, got groups=", groups, " for ",
                             p.filters, " channels"));
  }
  p.groups = groups;
  p.channels = checked_multiply(op, "the result", k.third, groups);
  const auto strides = positive_int_pair_option(op, "strides", o.strides);
  const auto dilation = positive_int_pair_option(op, "dilation", o.dilation);
  const Padding padding = parse_padding(op, o.padding);
  p.height = transposed_axis(op, "height", x.height, k.height, strides[0], dilation[0], padding, 0,
                             output_padding);
  p.width = transposed_axis(op, "width", x.width, k.width, strides[1], dilation[1], padding, 1,
                            output_padding);
  check_sizes(op, p);
  return p;
}

Shape result_shape(std::int64_t batch, std::int64_t height, std::int64_t width,
                   std::int64_t channels, bool one_axis) {
  if (one_axis) return {batch, width, channels};
  return {batch, height, width, channels};
}

// compute(), without the interpreter's lock. The kernels are those of conv2d, and so their scratch
// memory is: where there is none, the message names the op that was called.
template <class Compute>
void run(const char* op, const Compute& compute) {
  const ReleaseGil release;
  try {
    compute();
  } catch (const MemoryError& error) {
    throw MemoryError(op, error.bytes);
  }
}

// Runs one of the forward products: (y, saved) as dense_forward.
template <class Product>
py::tuple run_forward(const char* op, const Shape& shape, const FloatInput& bias, Activation f,
                      bool save, const Product& product) {
  FloatArray y = new_float_array(op, shape);
  py::object saved = y;
  conv2d::Output out{bias.data(), f, nullptr, y.mutable_data()};
  if (save && activation::needs_input(f.kind)) {
    FloatArray z = new_float_array(op, shape);
    out.pre_activation = z.mutable_data();
    saved = std::move(z);
  }
  if (y.size() > 0) run(op, [&] { product(out); });
  return py::make_tuple(y, save ? saved : py::none());
}

// dx(dz, kernel, data), and gradients(x, output_gradient, out) for dkernel and on request dbias and
// dz.
template <class Dx, class Gradients>
py::tuple run_backward(const char* op, const FloatInput& dy, const FloatInput& x,
                       const FloatInput& kernel, const FloatInput& saved, const Shape& y_shape,
                       Activation f, std::int64_t results, const WantedGradients& wanted,
                       const Dx& dx_product, const Gradients& gradients) {
  expect_shape(op, "dy", dy, y_shape);
  expect_shape(op, "saved", saved, y_shape);
  const GradientOutputs g = gradient_outputs(op, wanted, dy, x, kernel, saved, results);
  const float* const x_data = x.data();
  const float* const kernel_data = kernel.data();
  const conv2d::OutputGradient output_gradient = {f, dy.data(), saved.data()};
  run(op, [&] {
    const bool linear = f.kind == activation::Kind::linear;
    const bool want_x = wanted.x && g.dx.size > 0;
    const bool need_dz = !linear && (want_x || !wanted.kernel);
    const Scratch<float> scratch(op, need_dz ? dy.size : 0);
    const float* const dz = linear ? output_gradient.dy : scratch.get();
    if (wanted.kernel) {
      gradients(x_data, output_gradient, {g.dkernel.data, g.dbias.data, scratch.get()});
    } else {
      if (need_dz) {
        activation::kernels().backward_fused(f, dy.size, output_gradient.dy, output_gradient.saved,
                                             scratch.get());
      }
      if (wanted.bias) {
        conv2d::kernels().bias_gradient(dz, dy.size / results, results, g.dbias.data);
      }
    }
    if (want_x) dx_product(dz, kernel_data, g.dx.data);
  });
  return g.arrays();
}

template <bool one_axis>
py::tuple conv_forward(py::object x_, py::object kernel_, py::object bias_, py::object strides,
                       py::object padding, py::object dilation, py::object groups,
                       py::object activation_, bool save) {
  const char* op = one_axis ? "conv1d" : "conv2d";
  const Options o{strides, padding, dilation, groups, activation_};
  const Image x = image(op, "x", float_input(op, "x", x_), one_axis);
  const Filter k = filter(op, float_input(op, "kernel", kernel_), one_axis);
  const FloatInput bias = optional_float_input(op, "bias", bias_);
  const Activation f = activation_option(op, activation_);
  const Problem p = conv_problem(op, x, k, o, one_axis);
  if (bias) expect_shape(op, "bias", bias, {p.filters}, "one value a filter");
  const float* const x_data = x.array.data();
  const float* const kernel = k.array.data();
  return run_forward(
      op, result_shape(p.batch, p.height.output, p.width.output, p.filters, one_axis), bias, f,
      save, [&](const conv2d::Output& y) { conv2d::kernels().correlate(p, x_data, kernel, y); });
}

template <bool one_axis>
py::tuple conv_backward(py::object dy_, py::object x_, py::object kernel_, py::object saved_,
                        py::object strides, py::object padding, py::object dilation,
                        py::object groups, py::object activation_, bool need_x, bool need_kernel,
                        bool need_bias, py::object dx_out, py::object dkernel_out,
                        py::object dbias_out) {
  const char* op = one_axis ? "conv1d" : "conv2d";
  const Options o{strides, padding, dilation, groups, activation_};
  const Image x = image(op, "x", float_input(op, "x", x_), one_axis);
  const Filter k = filter(op, float_input(op, "kernel", kernel_), one_axis);
  const Problem p = conv_problem(op, x, k, o, one_axis);
  const conv2d::Kernels& kernels = conv2d::kernels();
  return run_backward(
      op, float_input(op, "dy", dy_), x.array, k.array, float_input(op, "saved", saved_),
      result_shape(p.batch, p.height.output, p.width.output, p.filters, one_axis),
      activation_option(op, activation_), p.filters,
      {need_x, need_kernel, need_bias, dx_out, dkernel_out, dbias_out},
      [&](const float* dz, const float* kernel, float* dx) {
        kernels.input_gradient(p, dz, kernel, {nullptr, {}, nullptr, dx});
      },
      [&](const float* x_data, const conv2d::OutputGradient& g,
          const conv2d::KernelGradients& out) { kernels.kernel_gradient(p, x_data, g, out); });
}

constexpr const char* transposed_axes = "(height, width, filters / groups, channels)";

py::tuple transpose_forward(py::object x_, py::object kernel_, py::object bias_, py::object strides,
                            py::object padding, py::object output_padding, py::object dilation,
                            py::object groups, py::object activation_, bool save) {
  const char* op = "conv2d_transpose";
  const Options o{strides, padding, dilation, groups, activation_};
  const Image x = image(op, "x", float_input(op, "x", x_), false);
  const Filter k = filter(op, float_input(op, "kernel", kernel_), false, transposed_axes);
  const FloatInput bias = optional_float_input(op, "bias", bias_);
  const Activation f = activation_option(op, activation_);
  const Problem p = transposed_problem(op, x, k, o, output_padding);
  if (bias) expect_shape(op, "bias", bias, {p.channels}, "one value a filter");
  const float* const x_data = x.array.data();
  const float* const kernel = k.array.data();
  return run_forward(
      op, {p.batch, p.height.input, p.width.input, p.channels}, bias, f, save,
      [&](const conv2d::Output& y) { conv2d::kernels().input_gradient(p, x_data, kernel, y); });
}

py::tuple transpose_backward(py::object dy_, py::object x_, py::object kernel_, py::object saved_,
                             py::object strides, py::object padding, py::object output_padding,
                             py::object dilation, py::object groups, py::object activation_,
                             bool need_x, bool need_kernel, bool need_bias, py::object dx_out,
                             py::object dkernel_out, py::object dbias_out) {
  const char* op = "conv2d_transpose";
  const Options o{strides, padding, dilation, groups, activation_};
  const Image x = image(op, "x", float_input(op, "x", x_), false);
  const Filter k = filter(op, float_input(op, "kernel", kernel_), false, transposed_axes);
  const Problem p = transposed_problem(op, x, k, o, output_padding);
  const conv2d::Kernels& kernels = conv2d::kernels();
  return run_backward(
      op, float_input(op, "dy", dy_), x.array, k.array, float_input(op, "saved", saved_),
      {p.batch, p.height.input, p.width.input, p.channels}, activation_option(op, activation_),
      p.channels, {need_x, need_kernel, need_bias, dx_out, dkernel_out, dbias_out},
      [&](const float* dz, const float* kernel, float* dx) {
        kernels.correlate(p, dz, kernel, {nullptr, {}, nullptr, dx});
      },
      [&](const float* x_data, const conv2d::OutputGradient& g,
          const conv2d::KernelGradients& out) {
        // x takes the place of dz here, and dz that of x.
        const std::int64_t size = p.batch * p.height.input * p.width.input * p.channels;
        const bool linear = g.activation.kind == activation::Kind::linear;
        const Scratch<float> scratch(op, linear || out.dz != nullptr ? 0 : size);
        float* const own = out.dz != nullptr ? out.dz : scratch.get();
        if (!linear) activation::kernels().backward_fused(g.activation, size, g.dy, g.saved, own);
        const float* const dz = linear ? g.dy : own;
        kernels.kernel_gradient(p, dz, {{}, x_data, nullptr}, {out.dkernel, nullptr, nullptr});
        if (out.dbias != nullptr) {
          kernels.bias_gradient(dz, size / p.channels, p.channels, out.dbias);
        }
      });
}

}  // namespace

void bind_conv2d(py::module_& module) {
  const auto forward = [&](const char* name, auto function) {
    module.def(name, function, py::arg("x"), py::arg("kernel"), py::arg("bias"), py::arg("strides"),
               py::arg("padding"), py::arg("dilation"), py::arg("groups"), py::arg("activation"),
               py::arg("save"));
  };
  forward("conv2d_forward", &conv_forward<false>);
  forward("conv1d_forward", &conv_forward<true>);
  const auto backward = [&](const char* name, auto function) {
    module.def(name, function, py::arg("dy"), py::arg("x"), py::arg("kernel"), py::arg("saved"),
               py::arg("strides"), py::arg("padding"), py::arg("dilation"), py::arg("groups"),
               py::arg("activation"), py::arg("need_x"), py::arg("need_kernel"),
               py::arg("need_bias"), py::arg("dx_out"), py::arg("dkernel_out"),
               py::arg("dbias_out"));
  };
  backward("conv2d_backward", &conv_backward<false>);
  backward("conv1d_backward", &conv_backward<true>);
  module.def("conv2d_transpose_forward", &transpose_forward, py::arg("x"), py::arg("kernel"),
             py::arg("bias"), py::arg("strides"), py::arg("padding"), py::arg("output_padding"),
             py::arg("dilation"), py::arg("groups"), py::arg("activation"), py::arg("save"));
  module.def("conv2d_transpose_backward", &transpose_backward, py::arg("dy"), py::arg("x"),
             py::arg("kernel"), py::arg("saved"), py::arg("strides"), py::arg("padding"),
             py::arg("output_padding"), py::arg("dilation"), py::arg("groups"),
             py::arg("activation"), py::arg("need_x"), py::arg("need_kernel"), py::arg("need_bias"),
             py::arg("dx_out"), py::arg("dkernel_out"), py::arg("dbias_out"));
}

}  // namespace lamella
