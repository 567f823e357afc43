// multi_head_attention: attention between projections.
//
//   q = query query_kernel + query_bias   (N,S,A,E)      y = context output_kernel + output_bias
//   k = key key_kernel + key_bias         (N,L,K,E)      context = attention(q, k, v) (N,S,A,Ev)
//   v = value value_kernel + value_bias   (N,L,K,Ev)
//
// A projection to heads is dense with a kernel (D, A * E), one from heads with (A * Ev, Dout): the
// layouts are the same. Forward saves q, k, v, context, lse and the weights if asked for.
#include <cstring>

#include "core/argument_gradients.h"
#include "ops/attention/attention_arguments.h"
#include "ops/dense/dense.h"

namespace lamella {
namespace {

constexpr const char* op = "multi_head_attention";

// Positions in the tuples of arguments and gradients.
// clang-format off
enum Position {
  query, key, value,
  query_kernel, key_kernel, value_kernel, output_kernel,
  query_bias, key_bias, value_bias, output_bias,
  mask, bias,
  positions
};
constexpr const char* names[positions] = {
    "query", "key", "value", "query_kernel", "key_kernel", "value_kernel", "output_kernel",
    "query_bias", "key_bias", "value_bias", "output_bias", "mask", "bias"};
// clang-format on

// A dense layer over rows: x (rows, inputs) -> (rows, units).
struct Projection {
  std::int64_t rows, inputs, units;
  const FloatInput* x;  // null: the context
  const FloatInput* kernel;
  const FloatInput* bias;
};

struct Arguments {
  FloatInput array[positions];  // all but mask and bias
  std::int64_t batch, queries, keys, results;
  Shape heads[3];  // of q, k and v

  Projection projection(int i) const {
    const std::int64_t rows = batch * (i == query ? queries : keys);
    const FloatInput& kernel = array[query_kernel + i];
    return {rows,      kernel.shape[0], kernel.shape[1] * kernel.shape[2],
            &array[i], &kernel,         &array[query_bias + i]};
  }
  Projection output() const {
    const FloatInput& kernel = array[output_kernel];
    return {batch * queries,    kernel.shape[0] * kernel.shape[1], results, nullptr, &kernel,
            &array[output_bias]};
  }
  Shape result_shape() const { return {batch, queries, results}; }
};

void check_output(Arguments& a) {
  const std::int64_t heads = a.heads[0][2];
  const std::int64_t value_size = a.heads[2][3];
  const FloatInput& kernel = a.array[output_kernel];
  expect_ndim(op, "output_kernel", kernel, 3, "(A, Ev, Dout)");
  a.results = kernel.shape[2];
  expect_shape(op, "output_kernel", kernel, {heads, value_size, a.results},
               "the heads of query_kernel, Ev of value_kernel (Dv, K, Ev)");
  if (a.results == 0) {
    throw ValueError(message(op, ": output_kernel must not be empty, got ", kernel.shape_text()));
  }
  if (a.array[output_bias]) {
    expect_shape(op, "output_bias", a.array[output_bias], {a.results}, "one a result");
  }
}

Arguments read_arguments(const py::tuple& arrays) {
  Arguments a;
  for (int i = 0; i < mask; ++i) {
    a.array[i] = i < query_bias ? float_input(op, names[i], arrays[i])
                                : optional_float_input(op, names[i], arrays[i]);
  }
  expect_ndim(op, "query", a.array[query], 3, "(N, S, D)");
  expect_ndim(op, "key", a.array[key], 3, "(N, L, D)");
  expect_ndim(op, "value", a.array[value], 3, "(N, L, D)");
  a.batch = a.array[query].shape[0];
  a.queries = a.array[query].shape[1];
  a.keys = a.array[key].shape[1];
  for (int i = query; i <= value; ++i) {
    const FloatInput& x = a.array[i];
    const FloatInput& kernel = a.array[query_kernel + i];
    const std::int64_t steps = i == query ? a.queries : a.keys;
    expect_shape(op, names[i], x, {a.batch, steps, x.shape[2]},
                 i == key ? "N of query" : "N of query, L of key");
    expect_ndim(op, names[query_kernel + i], kernel, 3, "(D, heads, size)");
    expect_shape(op, names[query_kernel + i], kernel,
                 {x.shape[2], kernel.shape[1], kernel.shape[2]},
                 message("as many rows as ", names[i], " has features").c_str());
    if (kernel.size == 0) {
      throw ValueError(message(op, ": ", names[query_kernel + i], " must not be empty, got ",
                               kernel.shape_text()));
    }
    checked_product(op, "a projection", {a.batch, steps, kernel.shape[1], kernel.shape[2]});
    a.heads[i] = {a.batch, steps, kernel.shape[1], kernel.shape[2]};
  }
  expect_shape(op, "key_kernel", a.array[key_kernel],
               {a.array[key].shape[2], a.heads[1][2], a.heads[0][3]},
               "E of query_kernel (D, A, E)");
  expect_shape(op, "value_kernel", a.array[value_kernel],
               {a.array[value].shape[2], a.heads[1][2], a.heads[2][3]},
               "the heads of key_kernel (D, K, E)");
  for (int i = query; i <= value; ++i) {
    const FloatInput& own_bias = a.array[query_bias + i];
    if (!own_bias) continue;
    expect_shape(op, names[query_bias + i], own_bias, {a.heads[i][2], a.heads[i][3]},
                 "one value a column of its kernel");
  }
  check_output(a);
  return a;
}

void project(const Projection& p, const float* x, float* y) {
  dense::kernels().forward(
      {p.rows, p.inputs, p.units, x, p.kernel->data(), p.bias->data(), {}, nullptr, y});
}

// A projection's elements, asked for while the interpreter's lock is held.
const float* read(const Projection& p) {
  p.kernel->data();
  p.bias->data();
  return p.x == nullptr ? nullptr : p.x->data();
}

// (y, lse, weights, saved).
py::tuple forward(py::tuple arrays, py::tuple options, py::object return_lse,
                  py::object return_weights) {
  const Arguments m = read_arguments(arrays);
  FloatArray projected[3];
  for (int i = query; i <= value; ++i) projected[i] = new_float_array(op, m.heads[i]);
  AttentionArguments a =
      attention_arguments(op, {op, projected[query]}, {op, projected[key]}, {op, projected[value]},
                          arrays[mask], arrays[bias], options);
  const AttentionResults r = attention_results(a, return_lse, return_weights);
  FloatArray y = new_float_array(op, m.result_shape());
  a.read();
  Projection projections[3];
  const float* inputs[3];
  float* to[3];
  for (int i = query; i <= value; ++i) {
    projections[i] = m.projection(i);
    inputs[i] = read(projections[i]);
    to[i] = projected[i].mutable_data();
  }
  const Projection output = m.output();
  read(output);
  float* const result = y.mutable_data();
  {
    const ReleaseGil released;
    for (int i = query; i <= value; ++i) project(projections[i], inputs[i], to[i]);
    compute_attention(a, r);
    project(output, r.data.y, result);
  }
  return py::make_tuple(
      y, r.natural_lse, r.weights,
      py::make_tuple(projected[query], projected[key], projected[value], r.y, r.lse, r.weights));
}

// The gradients of what a projection had: of x, its kernel and its bias, each unless it is null.
struct ProjectionGradients {
  float* x;
  float* kernel;
  float* bias;
  bool any() const { return x != nullptr || kernel != nullptr || bias != nullptr; }
};

void project_back(const Projection& p, const float* dy, const float* x,
                  const ProjectionGradients& out) {
  dense::kernels().backward(
      {p.rows, p.inputs, p.units, dy, x, p.kernel->data(), out.x, out.kernel, out.bias});
}

// dy: of y, lse and weights, each or None.
py::tuple backward(py::tuple dy, py::tuple arrays, py::tuple saved, py::tuple options,
                   py::tuple needs, py::tuple out) {
  const Arguments m = read_arguments(arrays);
  AttentionArguments a =
      attention_arguments(op, float_input(op, "q", saved[0]), float_input(op, "k", saved[1]),
                          float_input(op, "v", saved[2]), arrays[mask], arrays[bias], options);
  expect_shape(op, "q", a.query, m.heads[query]);
  expect_shape(op, "k", a.key, m.heads[key]);
  expect_shape(op, "v", a.value, m.heads[value]);
  const FloatInput context = float_input(op, "context", saved[3]);
  expect_shape(op, "context", context, a.result_shape());
  const AttentionGradients g = attention_gradients(a, saved[4], saved[5], dy[1], dy[2]);
  const FloatInput d_y = optional_float_input(op, "dy", dy[0]);
  if (d_y) expect_shape(op, "dy", d_y, m.result_shape());

  std::vector<ArgumentGradients::Argument> list;
  for (int i = 0; i < mask; ++i) list.push_back({names[i], &m.array[i]});
  list.push_back({"mask", nullptr});
  list.push_back({"bias", &a.bias});
  const ArgumentGradients gradients(op, std::move(list), needs, out);
  gradients.expect_separate_from({&d_y, &g.d_lse, &g.d_weights, &a.query, &a.key, &a.value,
                                  &context, &g.lse, &g.weights, &a.alibi_slopes});
  a.read();
  Projection projections[3];
  const float* inputs[3];
  ProjectionGradients wanted[3];
  FloatArray d_projected[3];
  float* d_heads[3] = {};
  for (int i = query; i <= value; ++i) {
    projections[i] = m.projection(i);
    inputs[i] = read(projections[i]);
    const auto at = static_cast<std::size_t>(i);
    wanted[i] = {gradients.data(at), gradients.data(query_kernel + at),
                 gradients.data(query_bias + at)};
    if (!wanted[i].any()) continue;
    d_projected[i] = new_float_array(op, m.heads[i]);
    d_heads[i] = d_projected[i].mutable_data();
  }
  const Projection output = m.output();
  read(output);
  const float* const d_result = d_y.data();
  const bool attends = d_heads[query] != nullptr || d_heads[key] != nullptr ||
                       d_heads[value] != nullptr || gradients.data(bias) != nullptr;
  FloatArray d_context_array;
  float* d_context = nullptr;
  if (attends && d_y) {
    d_context_array = new_float_array(op, a.result_shape());
    d_context = d_context_array.mutable_data();
  }
  const attention::Saved given = {context.data(), g.lse.data(),   g.weights.data(),
                                  d_context,      g.d_lse.data(), g.d_weights.data()};
  {
    const ReleaseGil released;
    // What nothing below writes.
    if (!d_y || a.empty()) gradients.clear();
    if (d_y) {
      project_back(output, d_result, context.data(),
                   {d_context, gradients.data(output_kernel), gradients.data(output_bias)});
    }
    if (attends && !a.empty()) {
      attention::kernels().backward(
          a.problem, given, {d_heads[query], d_heads[key], d_heads[value], gradients.data(bias)});
      for (int i = query; i <= value; ++i) {
        if (d_heads[i] != nullptr) project_back(projections[i], d_heads[i], inputs[i], wanted[i]);
      }
    }
  }
  return gradients.result();
}

}  // namespace

void bind_multi_head_attention(py::module_& module) {
  module.def("multi_head_attention_forward", &forward, py::arg("arrays"), py::arg("options"),
             py::arg("return_lse"), py::arg("return_weights"));
  module.def("multi_head_attention_backward", &backward, py::arg("dy"), py::arg("arrays"),
             py::arg("saved"), py::arg("options"), py::arg("needs"), py::arg("out"));
}

}  // namespace lamella
