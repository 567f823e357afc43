#include <pybind11/stl.h>

#include "core/arguments.h"
#include "core/overlap.h"
#include "ops/embedding/embedding.h"

namespace lamella {
namespace {

constexpr const char* op = "embedding";

// "(2, 5)": where element i of an array in C order stands.
std::string position_text(const Input<std::int64_t>& array, std::int64_t i) {
  Shape position(static_cast<std::size_t>(array.ndim));
  for (int axis = array.ndim - 1; axis >= 0; --axis) {
    position[static_cast<std::size_t>(axis)] = i % array.shape[axis];
    i /= array.shape[axis];
  }
  return shape_text(position);
}

// The indices' elements, all of them in [0, rows).
const std::int64_t* checked_indices(const Input<std::int64_t>& indices, std::int64_t rows) {
  const std::int64_t* const data = indices.host_data();
  const auto is_outside = [&](std::int64_t i) {
    return static_cast<std::uint64_t>(data[i]) >= static_cast<std::uint64_t>(rows);
  };
  // Without a branch an element: nearly always all of them are inside.
  bool any = false;
  for (std::int64_t i = 0; i < indices.size; ++i) any |= is_outside(i);
  for (std::int64_t i = 0; any && i < indices.size; ++i) {
    if (!is_outside(i)) continue;
    throw IndexError(message(op, ": indices must lie in [0, ", rows, "), got ", data[i],
                             " at position ", position_text(indices, i)));
  }
  return indices.data();
}

void expect_table(const std::int64_t* shape, int ndim) {
  if (ndim != 2 || shape[0] < 1 || shape[1] < 1) {
    throw ValueError(message(op, ": table must have shape (rows, columns), both at least 1, got ",
                             shape_text(shape, ndim)));
  }
}

// (..., columns) for indices (...).
Shape result_shape(const Input<std::int64_t>& indices, std::int64_t columns) {
  Shape shape(indices.shape, indices.shape + indices.ndim);
  shape.push_back(columns);
  return shape;
}

FloatArray forward(py::object indices_, py::object table_) {
  const Input<std::int64_t> indices = index_input(op, "indices", indices_);
  const FloatInput table = float_input(op, "table", table_);
  expect_table(table.shape, table.ndim);
  const embedding::Problem problem = {indices.size, table.shape[0], table.shape[1]};
  const std::int64_t* const numbers = checked_indices(indices, problem.rows);
  FloatArray y = new_float_array(op, result_shape(indices, problem.columns));
  const float* const rows = table.data();
  float* const out = y.mutable_data();
  {
    const ReleaseGil released;
    embedding::kernels().forward(problem, numbers, rows, out);
  }
  return y;
}

py::object backward(py::object dy_, py::object indices_, const Shape& table_shape, py::object out) {
  const Input<std::int64_t> indices = index_input(op, "indices", indices_);
  const FloatInput dy = float_input(op, "dy", dy_);
  expect_table(table_shape.data(), static_cast<int>(table_shape.size()));
  const embedding::Problem problem = {indices.size, table_shape[0], table_shape[1]};
  expect_shape(op, "dy", dy, result_shape(indices, problem.columns));
  // Again: the caller may have changed them since the forward pass.
  const std::int64_t* const numbers = checked_indices(indices, problem.rows);
  const Output dtable = output_array(op, "out", out, table_shape);
  expect_separate(op, "out", dtable.data, dtable.size, "dy", dy.data(), dy.size);
  const float* const gradient = dy.data();
  {
    const ReleaseGil released;
    embedding::kernels().backward(problem, numbers, gradient, dtable.data);
  }
  return dtable.array;
}

}  // namespace

void bind_embedding(py::module_& module) {
  module.def("embedding_forward", &forward, py::arg("indices"), py::arg("table"));
  module.def("embedding_backward", &backward, py::arg("dy"), py::arg("indices"),
             py::arg("table_shape"), py::arg("out") = py::none());
}

}  // namespace lamella
