// dense and matmul: arrays in and out.
#include <algorithm>

#include "ops/activation/activation_bind.h"
#include "ops/dense/dense.h"
#include "ops/dense/gradient_outputs.h"

namespace lamella {
namespace {

using activation::Activation;

struct DenseShapes {
  std::int64_t rows, inputs, units;
  Shape y;
};

DenseShapes check_dense(const FloatInput& x, const FloatInput& kernel, const FloatInput& bias) {
  const char* op = "dense";
  if (x.ndim < 1) {
    throw ValueError(
        message(op, ": x must have at least 1 axis (..., D), got shape ", x.shape_text()));
  }
  expect_ndim(op, "kernel", kernel, 2, "(D, U)");
  DenseShapes s;
  s.inputs = x.shape[x.ndim - 1];
  s.units = kernel.shape[1];
  if (kernel.shape[0] != s.inputs) {
    throw ValueError(message(op, ": kernel must have ", s.inputs,
                             " rows, the size of x's last axis; got kernel ", kernel.shape_text(),
                             " for x ", x.shape_text()));
  }
  if (s.inputs == 0 || s.units == 0) {
    throw ValueError(message(op, ": kernel must not be empty, got ", kernel.shape_text()));
  }
  if (bias) expect_shape(op, "bias", bias, {s.units}, "one value a unit");
  s.y.assign(x.shape, x.shape + x.ndim);
  s.y.back() = s.units;
  s.rows = x.size / s.inputs;
  return s;
}

// (y, saved): saved is None, y itself, or the pre-activation, as backward wants it.
py::tuple dense_forward(py::object x_, py::object kernel_, py::object bias_, py::object activation_,
                        bool save) {
  const FloatInput x = float_input("dense", "x", x_);
  const FloatInput kernel = float_input("dense", "kernel", kernel_);
  const FloatInput bias = optional_float_input("dense", "bias", bias_);
  const Activation f = activation_option("dense", activation_);
  const DenseShapes s = check_dense(x, kernel, bias);
  FloatArray y = new_float_array("dense", s.y);
  py::object saved = y;
  dense::Forward p{s.rows,      s.inputs, s.units, x.data(),        kernel.data(),
                   bias.data(), f,        nullptr, y.mutable_data()};
  if (save && activation::needs_input(f.kind)) {
    FloatArray z = new_float_array("dense", s.y);
    p.pre_activation = z.mutable_data();
    saved = std::move(z);
  }
  {
    const ReleaseGil release;
    dense::kernels().forward(p);
  }
  return py::make_tuple(y, save ? saved : py::none());
}

// (dx, dkernel, dbias); `needs` says which, `out` may give arrays for the latter two.
py::tuple dense_backward(py::object dy_, py::object x_, py::object kernel_, py::object saved_,
                         py::object activation_, bool need_x, bool need_kernel, bool need_bias,
                         py::object dx_out, py::object dkernel_out, py::object dbias_out) {
  const FloatInput x = float_input("dense", "x", x_);
  const FloatInput kernel = float_input("dense", "kernel", kernel_);
  const FloatInput saved = float_input("dense", "saved", saved_);
  const FloatInput dy = float_input("dense", "dy", dy_);
  const Activation f = activation_option("dense", activation_);
  const DenseShapes s = check_dense(x, kernel, {});
  expect_shape("dense", "dy", dy, s.y);
  expect_shape("dense", "saved", saved, s.y);
  const GradientOutputs g =
      gradient_outputs("dense", {need_x, need_kernel, need_bias, dx_out, dkernel_out, dbias_out},
                       dy, x, kernel, saved, s.units);
  dense::Backward p{s.rows,        s.inputs,  s.units,        dy.data(),   x.data(),
                    kernel.data(), g.dx.data, g.dkernel.data, g.dbias.data};
  const float* const gradient = dy.data();
  const float* const result = saved.data();
  {
    const ReleaseGil release;
    const bool linear = f.kind == activation::Kind::linear;
    const Scratch<float> dz("dense", linear ? 0 : dy.size);
    if (!linear) {
      activation::kernels().backward_fused(f, dy.size, gradient, result, dz.get());
      p.dz = dz.get();
    }
    dense::kernels().backward(p);
  }
  return g.arrays();
}

struct MatmulShapes {
  std::int64_t m, n, k;
  Shape batch;  // broadcast
};

// The batch shapes broadcast by NumPy's rules.
MatmulShapes check_matmul(const FloatInput& a, const FloatInput& b, bool transpose_a,
                          bool transpose_b) {
  const char* op = "matmul";
  if (a.ndim < 2 || b.ndim < 2) {
    throw ValueError(message(op, ": a and b must have at least 2 axes, got shapes ", a.shape_text(),
                             " and ", b.shape_text()));
  }
  MatmulShapes s;
  s.m = a.shape[a.ndim - (transpose_a ? 1 : 2)];
  s.k = a.shape[a.ndim - (transpose_a ? 2 : 1)];
  s.n = b.shape[b.ndim - (transpose_b ? 2 : 1)];
  const std::int64_t b_k = b.shape[b.ndim - (transpose_b ? 1 : 2)];
  if (s.k != b_k) {
    throw ValueError(message(op, ": a and b must agree in the axis summed over, got ", s.k, " and ",
                             b_k, " (shapes ", a.shape_text(), " and ", b.shape_text(),
                             ", transpose_a=", transpose_a ? "True" : "False",
                             ", transpose_b=", transpose_b ? "True" : "False", ")"));
  }
  const int ndim = std::max(a.ndim, b.ndim) - 2;
  for (int i = 0; i < ndim; ++i) {
    const int ia = a.ndim - 2 - ndim + i, ib = b.ndim - 2 - ndim + i;
    const std::int64_t sa = ia < 0 ? 1 : a.shape[ia], sb = ib < 0 ? 1 : b.shape[ib];
    if (sa != sb && sa != 1 && sb != 1) {
      throw ValueError(message(op, ": the batch axes of a and b do not broadcast, got shapes ",
                               a.shape_text(), " and ", b.shape_text()));
    }
    s.batch.push_back(sa == 1 ? sb : sa);
  }
  return s;
}

// Where each matrix of the broadcast batch lies in an operand with these axes.
std::vector<std::int64_t> batch_offsets(const std::int64_t* shape, int ndim, const Shape& batch,
                                        std::int64_t count) {
  const int axes = static_cast<int>(batch.size());
  std::vector<std::int64_t> stride(batch.size());
  std::int64_t size = shape[ndim - 1] * shape[ndim - 2];
  for (int i = axes - 1; i >= 0; --i) {
    const int own = ndim - 2 - axes + i;
    const std::int64_t extent = own < 0 ? 1 : shape[own];
    stride[static_cast<std::size_t>(i)] = extent == 1 ? 0 : size;
    size *= extent;
  }
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(count));
  for (std::int64_t q = 0; q < count; ++q) {
    std::int64_t rest = q, offset = 0;
    for (int i = axes - 1; i >= 0; --i) {
      const auto at = static_cast<std::size_t>(i);
      offset += rest % batch[at] * stride[at];
      rest /= batch[at];
    }
    offsets[static_cast<std::size_t>(q)] = offset;
  }
  return offsets;
}

std::int64_t batch_count(const Shape& batch) {
  std::int64_t count = 1;
  for (const std::int64_t size : batch) {
    count = checked_multiply("matmul", "the batch", count, size);
  }
  return count;
}

FloatArray matmul_forward(py::object a_, py::object b_, py::object ta, py::object tb) {
  const FloatInput a = float_input("matmul", "a", a_);
  const FloatInput b = float_input("matmul", "b", b_);
  const bool transpose_a = bool_option("matmul", "transpose_a", ta);
  const bool transpose_b = bool_option("matmul", "transpose_b", tb);
  const MatmulShapes s = check_matmul(a, b, transpose_a, transpose_b);
  Shape shape = s.batch;
  shape.insert(shape.end(), {s.m, s.n});
  FloatArray c = new_float_array("matmul", shape);
  // The batch of an empty result may be of any size: nothing is to be made for each of its
  // matrices.
  if (c.size() == 0) return c;
  const std::int64_t count = batch_count(s.batch);
  // A single product lies at the beginning of everything: for a small one even the lists would
  // cost something.
  static const std::int64_t beginning = 0;
  const auto offsets = [&](const std::int64_t* axes, int ndim) {
    return count == 1 ? std::vector<std::int64_t>() : batch_offsets(axes, ndim, s.batch, count);
  };
  const auto first = [](const std::vector<std::int64_t>& list) {
    return list.empty() ? &beginning : list.data();
  };
  const auto a_offset = offsets(a.shape, a.ndim);
  const auto b_offset = offsets(b.shape, b.ndim);
  const auto c_offset = offsets(shape.data(), static_cast<int>(shape.size()));
  dense::Matmul p{count,
                  s.m,
                  s.n,
                  s.k,
                  a.data(),
                  first(a_offset),
                  0,
                  0,
                  b.data(),
                  first(b_offset),
                  0,
                  0,
                  c.mutable_data(),
                  first(c_offset),
                  false};
  p.a_row = transpose_a ? 1 : s.k;
  p.a_column = transpose_a ? s.m : 1;
  p.b_row = transpose_b ? 1 : s.n;
  p.b_column = transpose_b ? s.k : 1;
  {
    const ReleaseGil release;
    dense::kernels().matmul(p);
  }
  return c;
}

// Where matmul's gradients go: new arrays, or the caller's; null data and None where not needed.
struct MatmulGradients {
  Output da, db;

  MatmulGradients(const std::array<bool, 2>& needs, const std::array<py::object, 2>& out,
                  const FloatInput& dc, const FloatInput& a, const FloatInput& b) {
    const FloatInput* const operands[2] = {&a, &b};
    Output* const targets[2] = {&da, &db};
    for (std::size_t i = 0; i < 2; ++i) {
      const FloatInput& like = *operands[i];
      Output& target = *targets[i];
      target.array = py::none();
      if (!needs[i]) continue;
      target = output_array("matmul", names[i], out[i], Shape(like.shape, like.shape + like.ndim));
      const auto separate = [&](const char* name, const FloatInput& input) {
        expect_separate("matmul", names[i], target.data, target.size, name, input.data(),
                        input.size);
      };
      separate("dy", dc);
      separate("a", a);
      separate("b", b);
    }
    expect_separate("matmul", names[0], da.data, da.size, names[1], db.data, db.size);
  }

  py::tuple arrays() const { return py::make_tuple(da.array, db.array); }

  static constexpr const char* names[2] = {"out[0]", "out[1]"};
};

// da = dc b^T (or, for a transposed a, b dc^T), db = a^T dc (or dc^T a), summed over the batch axes
// along which the operand was broadcast.
py::tuple matmul_backward(py::object dc_, py::object a_, py::object b_, py::object ta,
                          py::object tb, bool need_a, bool need_b, py::object a_out,
                          py::object b_out) {
  const FloatInput a = float_input("matmul", "a", a_);
  const FloatInput b = float_input("matmul", "b", b_);
  const FloatInput dc = float_input("matmul", "dy", dc_);
  const bool transpose_a = bool_option("matmul", "transpose_a", ta);
  const bool transpose_b = bool_option("matmul", "transpose_b", tb);
  const MatmulShapes s = check_matmul(a, b, transpose_a, transpose_b);
  Shape shape = s.batch;
  shape.insert(shape.end(), {s.m, s.n});
  expect_shape("matmul", "dy", dc, shape);
  const MatmulGradients g({need_a, need_b}, {a_out, b_out}, dc, a, b);
  if (dc.size == 0) {
    fill_zeros(g.da.data, g.da.size);
    fill_zeros(g.db.data, g.db.size);
    return g.arrays();
  }
  const std::int64_t count = batch_count(s.batch);
  const auto a_offset = batch_offsets(a.shape, a.ndim, s.batch, count);
  const auto b_offset = batch_offsets(b.shape, b.ndim, s.batch, count);
  const auto c_offset = batch_offsets(shape.data(), static_cast<int>(shape.size()), s.batch, count);

  // A matrix operand: element (i, j) of its logical (untransposed) form.
  struct Operand {
    const float* data;
    const std::vector<std::int64_t>* offset;
    std::int64_t row, column;
  };
  const Operand lhs = {a.data(), &a_offset, transpose_a ? 1 : s.k, transpose_a ? s.m : 1};
  const Operand rhs = {b.data(), &b_offset, transpose_b ? 1 : s.n, transpose_b ? s.k : 1};
  const Operand grad = {dc.data(), &c_offset, s.n, 1};
  const auto transposed = [](Operand x) { return Operand{x.data, x.offset, x.column, x.row}; };
  const auto run = [&](std::int64_t m, std::int64_t n, std::int64_t k, const Operand& x,
                       const Operand& y, const Output& out,
                       const std::vector<std::int64_t>& offset) {
    const bool summed = count * m * n != out.size;
    if (summed) fill_zeros(out.data, out.size);
    dense::kernels().matmul({count, m, n, k, x.data, x.offset->data(), x.row, x.column, y.data,
                             y.offset->data(), y.row, y.column, out.data, offset.data(), summed});
  };
  {
    const ReleaseGil release;
    if (need_a && transpose_a) run(s.k, s.m, s.n, rhs, transposed(grad), g.da, a_offset);
    if (need_a && !transpose_a) run(s.m, s.k, s.n, grad, transposed(rhs), g.da, a_offset);
    if (need_b && transpose_b) run(s.n, s.k, s.m, transposed(grad), lhs, g.db, b_offset);
    if (need_b && !transpose_b) run(s.k, s.n, s.m, transposed(lhs), grad, g.db, b_offset);
  }
  return g.arrays();
}

}  // namespace

void bind_dense(py::module_& module) {
  module.def("dense_forward", &dense_forward, py::arg("x"), py::arg("kernel"), py::arg("bias"),
             py::arg("activation"), py::arg("save"));
  module.def("dense_backward", &dense_backward, py::arg("dy"), py::arg("x"), py::arg("kernel"),
             py::arg("saved"), py::arg("activation"), py::arg("need_x"), py::arg("need_kernel"),
             py::arg("need_bias"), py::arg("dx_out"), py::arg("dkernel_out"), py::arg("dbias_out"));
  module.def("matmul_forward", &matmul_forward, py::arg("a"), py::arg("b"), py::arg("transpose_a"),
             py::arg("transpose_b"));
  module.def("matmul_backward", &matmul_backward, py::arg("dy"), py::arg("a"), py::arg("b"),
             py::arg("transpose_a"), py::arg("transpose_b"), py::arg("need_a"), py::arg("need_b"),
             py::arg("a_out"), py::arg("b_out"));
}

}  // namespace lamella
