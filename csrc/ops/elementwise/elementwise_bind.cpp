#include <pybind11/stl.h>

#include <algorithm>

#include "core/arguments.h"
#include "core/overlap.h"
#include "ops/elementwise/elementwise.h"
#include "ops/elementwise/elementwise_plan.h"

namespace lamella {
namespace {

using elementwise::Operation;

template <class T>
Shape shape_of(const Input<T>& x) {
  return Shape(x.shape, x.shape + x.ndim);
}

// Of an array that exists, or of one that broadcasts to it: no overflow is possible.
std::int64_t size_of(const Shape& shape) {
  std::int64_t size = 1;
  for (const std::int64_t n : shape) size *= n;
  return size;
}

FloatArray binary(const char* op, Operation operation, py::handle a_, py::handle b_) {
  const FloatInput a = float_input(op, "a", a_);
  const FloatInput b = float_input(op, "b", b_);
  const Shape a_shape = shape_of(a);
  const Shape b_shape = shape_of(b);
  const Shape shape = elementwise::broadcast_shape(op, a_shape, b_shape);
  FloatArray y = new_float_array(op, shape);
  if (y.size() == 0) return y;
  const elementwise::Broadcast plan = elementwise::plan_broadcast(shape, a_shape, b_shape);
  const float* const left = a.data();
  const float* const right = b.data();
  float* out = y.mutable_data();
  {
    const ReleaseGil released;
    elementwise::kernels().binary(operation, plan, left, right, out);
  }
  return y;
}

// The gradient of an operand of shape `shape`: the terms of shape `full`, which are dy or dy times
// `other`, summed over the axes along which the operand was repeated.
void operand_gradient(const char* op, const Shape& full, const Shape& shape, const float* dy,
                      const float* other, const Shape& other_shape, float* out) {
  const elementwise::Kernels& kernels = elementwise::kernels();
  const std::int64_t size = size_of(full);
  if (size == 0) {
    fill_zeros(out, size_of(shape));
    return;
  }
  const std::vector<elementwise::SumPass> passes = elementwise::plan_sum(full, shape);
  if (passes.empty() && other == nullptr) {
    return kernels.copy_rows({1, size, dy, size, out, size});
  }
  const elementwise::Broadcast plan =
      elementwise::plan_broadcast(full, full, other == nullptr ? full : other_shape);
  if (passes.empty()) return kernels.binary(Operation::multiply, plan, dy, other, out);
  const bool materialized = other != nullptr && (plan.ndim > 1 || plan.b_stride[0] == 0);
  const Scratch<float> product(op, materialized ? size : 0);
  if (materialized) {
    kernels.binary(Operation::multiply, plan, dy, other, product.get());
    dy = product.get();
    other = nullptr;
  }
  // Each pass leaves less than the one before it, so two buffers in turn are enough.
  const auto left = [&](std::size_t i) {
    return i + 1 < passes.size() ? passes[i].outer * passes[i].inner : 0;
  };
  const Scratch<float> buffers[2] = {{op, left(0)}, {op, left(1)}};
  for (std::size_t i = 0; i < passes.size(); ++i) {
    float* sums = i + 1 == passes.size() ? out : buffers[i % 2].get();
    kernels.sum_axis(op, passes[i].outer, passes[i].summed, passes[i].inner, dy, other, sums);
    dy = sums;
    other = nullptr;
  }
}

// What the pullbacks of both operations share: the checked gradient, and a target for each operand.
struct Gradients {
  FloatInput dy;
  Shape full;
  Output target[2];

  Gradients(const char* op, py::handle dy_, const Shape& a, const Shape& b,
            const std::array<bool, 2>& needs, const std::array<py::object, 2>& out)
      : dy(float_input(op, "dy", dy_)), full(elementwise::broadcast_shape(op, a, b)) {
    expect_shape(op, "dy", dy, full);
    const Shape* shapes[2] = {&a, &b};
    for (std::size_t i = 0; i < 2; ++i) {
      if (!needs[i]) continue;
      target[i] = output_array(op, names[i], out[i], *shapes[i]);
      expect_apart(op, i, "dy", dy);
    }
    expect_separate(op, names[0], target[0].data, target[0].size, names[1], target[1].data,
                    target[1].size);
  }

  void expect_apart(const char* op, std::size_t i, const char* name, const FloatInput& input) {
    expect_separate(op, names[i], target[i].data, target[i].size, name, input.data(), input.size);
  }

  py::tuple result() const {
    const auto array = [](const Output& output) {
      return output.array ? output.array : py::object(py::none());
    };
    return py::make_tuple(array(target[0]), array(target[1]));
  }

  static constexpr const char* names[2] = {"out[0]", "out[1]"};
};

py::tuple add_backward(py::object dy, const Shape& a_shape, const Shape& b_shape,
                       const std::array<bool, 2>& needs, const std::array<py::object, 2>& out) {
  Gradients g("add", dy, a_shape, b_shape, needs, out);
  const Shape* shapes[2] = {&a_shape, &b_shape};
  const float* const gradient = g.dy.data();
  {
    const ReleaseGil released;
    for (std::size_t i = 0; i < 2; ++i) {
      if (!needs[i]) continue;
      operand_gradient("add", g.full, *shapes[i], gradient, nullptr, {}, g.target[i].data);
    }
  }
  return g.result();
}

py::tuple multiply_backward(py::object dy, py::object a_, py::object b_,
                            const std::array<bool, 2>& needs,
                            const std::array<py::object, 2>& out) {
  const FloatInput operands[2] = {float_input("multiply", "a", a_),
                                  float_input("multiply", "b", b_)};
  const Shape shapes[2] = {shape_of(operands[0]), shape_of(operands[1])};
  Gradients g("multiply", dy, shapes[0], shapes[1], needs, out);
  for (std::size_t i = 0; i < 2; ++i) {
    if (!needs[i]) continue;
    g.expect_apart("multiply", i, "a", operands[0]);
    g.expect_apart("multiply", i, "b", operands[1]);
  }
  const float* const gradient = g.dy.data();
  const float* const factors[2] = {operands[0].data(), operands[1].data()};
  {
    const ReleaseGil released;
    for (std::size_t i = 0; i < 2; ++i) {
      if (!needs[i]) continue;
      operand_gradient("multiply", g.full, shapes[i], gradient, factors[1 - i], shapes[1 - i],
                       g.target[i].data);
    }
  }
  return g.result();
}

void accumulate(py::object target_, py::object source_) {
  constexpr const char* op = "accumulate_";
  const Output target = writable_array(op, "target", target_);
  const FloatInput source = float_input(op, "source", source_);
  expect_shape(op, "source", source, target.shape(), "the shape of target");
  expect_separate(op, "target", target.data, target.size, "source", source.data(), source.size);
  const float* const in = source.data();
  const ReleaseGil released;
  elementwise::kernels().accumulate(source.size, in, target.data);
}

// The arrays of a concatenation as blocks of rows: row r of the result is row r of each in turn.
struct Concatenation {
  Shape shape;
  std::int64_t rows = 1;
  std::int64_t row_size = 0;
  std::vector<std::int64_t> widths;
};

Concatenation plan_concatenation(const char* op, const std::vector<Shape>& shapes,
                                 py::handle axis_) {
  if (shapes.empty()) throw ValueError(message(op, ": at least one array is needed"));
  Concatenation plan;
  plan.shape = shapes[0];
  const auto ndim = static_cast<std::int64_t>(plan.shape.size());
  if (ndim == 0) throw ValueError(message(op, ": arrays[0] must have at least one axis"));
  const std::int64_t given = int_option(op, "axis", axis_);
  if (given < -ndim || given >= ndim) {
    throw ValueError(message(op, ": axis must lie in [", -ndim, ", ", ndim, ") for arrays with ",
                             ndim, " axes, got ", given));
  }
  const auto axis = static_cast<std::size_t>(given < 0 ? given + ndim : given);
  for (std::size_t i = 1; i < shapes.size(); ++i) {
    Shape fitting = shapes[i];
    if (fitting.size() == plan.shape.size()) fitting[axis] = shapes[0][axis];
    if (fitting != shapes[0]) {
      throw ValueError(message(op, ": arrays[", i, "] must have the shape of arrays[0], ",
                               shape_text(shapes[0]), ", but for axis ", given, "; got ",
                               shape_text(shapes[i])));
    }
    plan.shape[axis] = checked_add(op, "the result", plan.shape[axis], shapes[i][axis]);
  }
  std::int64_t inner = 1;
  for (std::size_t i = 0; i < axis; ++i) {
    plan.rows = checked_multiply(op, "the result", plan.rows, plan.shape[i]);
  }
  for (std::size_t i = axis + 1; i < plan.shape.size(); ++i) {
    inner = checked_multiply(op, "the result", inner, plan.shape[i]);
  }
  plan.row_size = checked_multiply(op, "the result", plan.shape[axis], inner);
  for (const Shape& shape : shapes) plan.widths.push_back(shape[axis] * inner);
  return plan;
}

FloatArray concatenate(const std::vector<py::object>& arrays, py::object axis) {
  constexpr const char* op = "concatenate";
  std::vector<FloatInput> inputs;
  std::vector<Shape> shapes;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    inputs.push_back(float_input(op, message("arrays[", i, "]").c_str(), arrays[i]));
    shapes.push_back(shape_of(inputs.back()));
  }
  const Concatenation plan = plan_concatenation(op, shapes, axis);
  FloatArray y = new_float_array(op, plan.shape);
  std::vector<const float*> sources;
  for (const FloatInput& input : inputs) sources.push_back(input.data());
  float* out = y.mutable_data();
  const ReleaseGil released;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const std::int64_t n = plan.widths[i];
    if (inputs[i].size > 0) {
      elementwise::kernels().copy_rows({plan.rows, n, sources[i], n, out, plan.row_size});
    }
    out += n;
  }
  return y;
}

py::tuple concatenate_backward(py::object dy_, const std::vector<Shape>& shapes, py::object axis,
                               const std::vector<bool>& needs, const std::vector<py::object>& out) {
  constexpr const char* op = "concatenate";
  const Concatenation plan = plan_concatenation(op, shapes, axis);
  const FloatInput dy = float_input(op, "dy", dy_);
  expect_shape(op, "dy", dy, plan.shape);
  std::vector<Output> targets(shapes.size());
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    if (!needs[i]) continue;
    const std::string name = message("out[", i, "]");
    targets[i] = output_array(op, name.c_str(), out[i], shapes[i]);
    expect_separate(op, name.c_str(), targets[i].data, targets[i].size, "dy", dy.data(), dy.size);
    for (std::size_t j = 0; j < i; ++j) {
      expect_separate(op, name.c_str(), targets[i].data, targets[i].size,
                      message("out[", j, "]").c_str(), targets[j].data, targets[j].size);
    }
  }
  const float* source = dy.data();
  {
    const ReleaseGil released;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      const std::int64_t n = plan.widths[i];
      if (targets[i].size > 0) {
        elementwise::kernels().copy_rows({plan.rows, n, source, plan.row_size, targets[i].data, n});
      }
      source += n;
    }
  }
  py::tuple gradients(shapes.size());
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    gradients[i] = targets[i].array ? targets[i].array : py::object(py::none());
  }
  return gradients;
}

}  // namespace

void bind_elementwise(py::module_& module) {
  module.def(
      "add_forward", [](py::object a, py::object b) { return binary("add", Operation::add, a, b); },
      py::arg("a"), py::arg("b"));
  module.def("add_backward", &add_backward, py::arg("dy"), py::arg("a_shape"), py::arg("b_shape"),
             py::arg("needs"), py::arg("out"));
  module.def(
      "multiply_forward",
      [](py::object a, py::object b) { return binary("multiply", Operation::multiply, a, b); },
      py::arg("a"), py::arg("b"));
  module.def("multiply_backward", &multiply_backward, py::arg("dy"), py::arg("a"), py::arg("b"),
             py::arg("needs"), py::arg("out"));
  module.def("accumulate_", &accumulate, py::arg("target"), py::arg("source"));
  module.def("concatenate_forward", &concatenate, py::arg("arrays"), py::arg("axis"));
  module.def("concatenate_backward", &concatenate_backward, py::arg("dy"), py::arg("shapes"),
             py::arg("axis"), py::arg("needs"), py::arg("out"));
}

}  // namespace lamella
