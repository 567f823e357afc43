// max_pool2d, avg_pool2d, global_max_pool2d, global_avg_pool2d.
#include <algorithm>

#include "core/overlap.h"
#include "core/window.h"
#include "ops/pool2d/pool2d.h"

namespace lamella {
namespace {

using ImageShape = std::array<std::int64_t, 4>;

struct Options {
  py::object pool_size;
  py::object strides;  // None: pool_size
  py::object padding;
  py::object dilation;
  py::object ceil_mode;
};

ImageShape image_shape(const char* op, const FloatInput& x) {
  expect_ndim(op, "x", x, 4, "(batch, height, width, channels)");
  return {x.shape[0], x.shape[1], x.shape[2], x.shape[3]};
}

// The shape that a forward pass had, for its backward pass.
ImageShape saved_shape(const char* op, const py::tuple& shape) {
  if (shape.size() != 4) {
    throw ValueError(message(op, ": x_shape must have 4 entries, got ", repr_text(shape)));
  }
  ImageShape sizes;
  for (std::size_t i = 0; i < 4; ++i) {
    sizes[i] = int_option(op, "x_shape", shape[i]);
    if (sizes[i] < 0) {
      throw ValueError(message(op, ": x_shape must not be negative, got ", repr_text(shape)));
    }
  }
  return sizes;
}

// Padding as large as the window would make windows of nothing but padding.
void expect_small_padding(const char* op, const char* axis_name, const WindowAxis& axis) {
  const std::int64_t largest = std::max(axis.pad_before, axis.pad_after);
  if (largest < axis.extent()) return;
  throw ValueError(message(op, ": padding must be smaller than the dilated window, got padding ",
                           largest, " for a window of ", axis.extent(), " (", axis_name, ")"));
}

PoolGeometry pool_geometry(const char* op, const ImageShape& x, const Options& options) {
  const auto kernel = positive_int_pair_option(op, "pool_size", options.pool_size);
  const auto stride =
      options.strides.is_none() ? kernel : positive_int_pair_option(op, "strides", options.strides);
  const auto dilation = positive_int_pair_option(op, "dilation", options.dilation);
  const bool ceil_mode = bool_option(op, "ceil_mode", options.ceil_mode);
  const auto axes =
      window_axes(op, {x[1], x[2]}, kernel, stride, dilation, options.padding, ceil_mode);
  expect_small_padding(op, "height", axes[0]);
  expect_small_padding(op, "width", axes[1]);
  return {x[0], x[3], axes[0], axes[1]};
}

// One window as large as the image.
PoolGeometry global_geometry(const char* op, const ImageShape& x) {
  if (x[1] < 1 || x[2] < 1) {
    throw ValueError(message(op, ": x must have at least one row and one column, got shape ",
                             shape_text(x.data(), 4)));
  }
  return {x[0], x[3], {x[1], x[1], 1, 1, 0, 0, 1}, {x[2], x[2], 1, 1, 0, 0, 1}};
}

// Positions in images are kept as int32.
void expect_numbered_positions(const char* op, const PoolGeometry& g) {
  if (max_pool2d::winner_bytes(g) == 1 || g.height.input <= INT32_MAX / g.width.input) return;
  throw ValueError(message(op,
                           ": windows of more than 255 positions need an image of less than "
                           "2**31 positions, got ",
                           g.height.input, " x ", g.width.input));
}

Shape output_shape(const PoolGeometry& g) {
  return {g.batch, g.height.output, g.width.output, g.channels};
}

Shape input_shape(const PoolGeometry& g) {
  return {g.batch, g.height.input, g.width.input, g.channels};
}

Shape winner_shape(const char* op, const PoolGeometry& g) {
  return {g.batch, g.height.output, g.width.output,
          checked_multiply(op, "the result", g.channels, max_pool2d::winner_bytes(g))};
}

// `y_shape`: that of output_shape, or (batch, channels).
py::object max_forward(const char* op, const PoolGeometry& g, const Shape& y_shape,
                       const FloatInput& x, bool save) {
  expect_numbered_positions(op, g);
  FloatArray y = new_float_array(op, y_shape);
  py::object winner = py::none();
  std::uint8_t* winner_out = nullptr;
  if (save) {
    ByteArray array = new_byte_array(op, winner_shape(op, g));
    winner_out = array.mutable_data();
    winner = std::move(array);
  }
  if (y.size() > 0) {
    const float* const in = x.data();
    float* out = y.mutable_data();
    const ReleaseGil release;
    max_pool2d::kernels().forward(g, in, out, winner_out);
  }
  if (!save) return y;
  return py::make_tuple(std::move(y), std::move(winner));
}

py::object max_backward(const char* op, const PoolGeometry& g, const Shape& y_shape, py::handle dy_,
                        py::handle winner_, py::handle out) {
  expect_numbered_positions(op, g);
  const FloatInput dy = float_input(op, "dy", dy_);
  expect_shape(op, "dy", dy, y_shape);
  const auto winner = byte_input(op, "winner", winner_);
  expect_shape(op, "winner", winner, winner_shape(op, g));
  const Output dx = output_array(op, "out", out, input_shape(g));
  expect_separate(op, "out", dx.data, dx.size, "dy", dy.data(), dy.size);
  if (dx.size > 0) {
    const float* const gradient = dy.data();
    const std::uint8_t* const winners = winner.data();
    const ReleaseGil release;
    max_pool2d::kernels().backward(g, gradient, winners, dx.data);
  }
  return dx.array;
}

py::object max_pool2d_forward(py::object x_, py::object pool_size, py::object strides,
                              py::object padding, py::object dilation, py::object ceil_mode,
                              bool save) {
  const char* op = "max_pool2d";
  const FloatInput x = float_input(op, "x", x_);
  const PoolGeometry g =
      pool_geometry(op, image_shape(op, x), {pool_size, strides, padding, dilation, ceil_mode});
  return max_forward(op, g, output_shape(g), x, save);
}

py::object max_pool2d_backward(py::object dy, py::object winner, const py::tuple& x_shape,
                               py::object pool_size, py::object strides, py::object padding,
                               py::object dilation, py::object ceil_mode, py::object out) {
  const char* op = "max_pool2d";
  const PoolGeometry g = pool_geometry(op, saved_shape(op, x_shape),
                                       {pool_size, strides, padding, dilation, ceil_mode});
  return max_backward(op, g, output_shape(g), dy, winner, out);
}

py::object global_max_pool2d_forward(py::object x_, bool save) {
  const char* op = "global_max_pool2d";
  const FloatInput x = float_input(op, "x", x_);
  const PoolGeometry g = global_geometry(op, image_shape(op, x));
  return max_forward(op, g, {g.batch, g.channels}, x, save);
}

py::object global_max_pool2d_backward(py::object dy, py::object winner, const py::tuple& x_shape,
                                      py::object out) {
  const char* op = "global_max_pool2d";
  const PoolGeometry g = global_geometry(op, saved_shape(op, x_shape));
  return max_backward(op, g, {g.batch, g.channels}, dy, winner, out);
}

py::object avg_pool2d_forward(py::object x_, py::object pool_size, py::object strides,
                              py::object padding, py::object dilation, py::object ceil_mode,
                              py::object count_include_pad) {
  const char* op = "avg_pool2d";
  const FloatInput x = float_input(op, "x", x_);
  const bool count_pad = bool_option(op, "count_include_pad", count_include_pad);
  const PoolGeometry g =
      pool_geometry(op, image_shape(op, x), {pool_size, strides, padding, dilation, ceil_mode});
  FloatArray y = new_float_array(op, output_shape(g));
  if (y.size() > 0) {
    const float* const in = x.data();
    float* out = y.mutable_data();
    const ReleaseGil release;
    avg_pool2d::kernels().forward(g, count_pad, in, out);
  }
  return y;
}

py::object avg_pool2d_backward(py::object dy_, const py::tuple& x_shape, py::object pool_size,
                               py::object strides, py::object padding, py::object dilation,
                               py::object ceil_mode, py::object count_include_pad, py::object out) {
  const char* op = "avg_pool2d";
  const bool count_pad = bool_option(op, "count_include_pad", count_include_pad);
  const PoolGeometry g = pool_geometry(op, saved_shape(op, x_shape),
                                       {pool_size, strides, padding, dilation, ceil_mode});
  const FloatInput dy = float_input(op, "dy", dy_);
  expect_shape(op, "dy", dy, output_shape(g));
  const Output dx = output_array(op, "out", out, input_shape(g));
  expect_separate(op, "out", dx.data, dx.size, "dy", dy.data(), dy.size);
  if (dx.size > 0) {
    const float* const gradient = dy.data();
    const ReleaseGil release;
    avg_pool2d::kernels().backward(g, count_pad, gradient, dx.data);
  }
  return dx.array;
}

py::object global_avg_pool2d_forward(py::object x_) {
  const char* op = "global_avg_pool2d";
  const FloatInput x = float_input(op, "x", x_);
  const PoolGeometry g = global_geometry(op, image_shape(op, x));
  FloatArray y = new_float_array(op, {g.batch, g.channels});
  if (y.size() > 0) {
    const float* const in = x.data();
    float* out = y.mutable_data();
    const ReleaseGil release;
    avg_pool2d::kernels().global_forward(g.batch, g.height.input * g.width.input, g.channels, in,
                                         out);
  }
  return y;
}

py::object global_avg_pool2d_backward(py::object dy_, const py::tuple& x_shape, py::object out) {
  const char* op = "global_avg_pool2d";
  const PoolGeometry g = global_geometry(op, saved_shape(op, x_shape));
  const FloatInput dy = float_input(op, "dy", dy_);
  expect_shape(op, "dy", dy, {g.batch, g.channels});
  const Output dx = output_array(op, "out", out, input_shape(g));
  expect_separate(op, "out", dx.data, dx.size, "dy", dy.data(), dy.size);
  if (dx.size > 0) {
    const float* const gradient = dy.data();
    const ReleaseGil release;
    avg_pool2d::kernels().global_backward(g.batch, g.height.input * g.width.input, g.channels,
                                          gradient, dx.data);
  }
  return dx.array;
}

}  // namespace

void bind_pool2d(py::module_& module) {
  module.def("max_pool2d_forward", &max_pool2d_forward, py::arg("x"), py::arg("pool_size"),
             py::arg("strides"), py::arg("padding"), py::arg("dilation"), py::arg("ceil_mode"),
             py::arg("save"));
  module.def("max_pool2d_backward", &max_pool2d_backward, py::arg("dy"), py::arg("winner"),
             py::arg("x_shape"), py::arg("pool_size"), py::arg("strides"), py::arg("padding"),
             py::arg("dilation"), py::arg("ceil_mode"), py::arg("out") = py::none());
  module.def("avg_pool2d_forward", &avg_pool2d_forward, py::arg("x"), py::arg("pool_size"),
             py::arg("strides"), py::arg("padding"), py::arg("dilation"), py::arg("ceil_mode"),
             py::arg("count_include_pad"));
  module.def("avg_pool2d_backward", &avg_pool2d_backward, py::arg("dy"), py::arg("x_shape"),
             py::arg("pool_size"), py::arg("strides"), py::arg("padding"), py::arg("dilation"),
             py::arg("ceil_mode"), py::arg("count_include_pad"), py::arg("out") = py::none());
  module.def("global_max_pool2d_forward", &global_max_pool2d_forward, py::arg("x"),
             py::arg("save"));
  module.def("global_max_pool2d_backward", &global_max_pool2d_backward, py::arg("dy"),
             py::arg("winner"), py::arg("x_shape"), py::arg("out") = py::none());
  module.def("global_avg_pool2d_forward", &global_avg_pool2d_forward, py::arg("x"));
  module.def("global_avg_pool2d_backward", &global_avg_pool2d_backward, py::arg("dy"),
             py::arg("x_shape"), py::arg("out") = py::none());
}

}  // namespace lamella
