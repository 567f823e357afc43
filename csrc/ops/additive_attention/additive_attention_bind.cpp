#include "core/argument_gradients.h"
#include "ops/additive_attention/additive_attention.h"
#include "ops/attention/attention_arguments.h"

namespace lamella {
namespace {

constexpr const char* op = "additive_attention";

struct AdditiveArguments {
  additive_attention::Problem problem;
  FloatInput query, value, key, scale;
  Input<std::uint8_t> mask;
  Input<std::int64_t> query_offsets;

  Shape result_shape() const {
    return {problem.pairs.batch, problem.pairs.queries, problem.pairs.value_size};
  }
  Shape score_shape() const {
    return {problem.pairs.batch, problem.pairs.queries, problem.pairs.keys};
  }
};

void read_sizes(AdditiveArguments& a) {
  expect_ndim(op, "query", a.query, 3, "(N, S, E)");
  expect_ndim(op, "value", a.value, 3, "(N, L, Ev)");
  expect_ndim(op, "key", a.key, 3, "(N, L, E)");
  attention::Problem& p = a.problem.pairs;
  p.op = op;
  p.batch = a.query.shape[0];
  p.queries = a.query.shape[1];
  p.size = a.query.shape[2];
  p.keys = a.key.shape[1];
  p.value_size = a.value.shape[2];
  p.heads = p.key_heads = 1;
  if (p.size == 0) {
    throw ValueError(
        message(op, ": query must have at least one feature, got ", a.query.shape_text()));
  }
  expect_shape(op, "key", a.key, {p.batch, p.keys, p.size}, "N and E of query (N, S, E)");
  expect_shape(op, "value", a.value, {p.batch, p.keys, p.value_size}, "N and L of key (N, L, E)");
  if (p.value_size == 0) {
    throw ValueError(
        message(op, ": value must have at least one feature, got ", a.value.shape_text()));
  }
  if (a.scale) expect_shape(op, "scale", a.scale, {p.size}, "one a feature of query");
  // Room for padding, and for gradients of the queries per chunk of keys.
  checked_product(op, "the queries", {p.batch + 1, p.queries + 512, p.size + 64, 64});
  checked_product(op, "the results", {p.batch + 1, p.queries + 512, p.value_size + 64});
  checked_product(op, "the keys", {p.batch + 1, p.keys + 512, p.size + 64});
  checked_product(op, "the values", {p.batch + 1, p.keys + 512, p.value_size + 64});
}

// Of a mask that broadcasts to (N, S, L).
attention::Strides mask_strides(const AdditiveArguments& a) {
  const Shape target = a.score_shape();
  std::int64_t strides[3] = {};
  bool fits = a.mask.ndim <= 3;
  std::int64_t stride = 1;
  for (int i = 1; fits && i <= a.mask.ndim; ++i) {
    const std::int64_t size = a.mask.shape[a.mask.ndim - i];
    fits = size == 1 || size == target[static_cast<std::size_t>(3 - i)];
    strides[3 - i] = size == 1 ? 0 : stride;
    stride *= size;
  }
  if (!fits) {
    throw ValueError(message(op, ": mask must broadcast to (N, S, L) = ", shape_text(target),
                             ", got ", a.mask.shape_text()));
  }
  return {strides[0], 0, strides[1], strides[2]};
}

// arrays: query, value, key, scale, mask. options: causal, query_offset, dropout, seed.
AdditiveArguments additive_arguments(const py::tuple& arrays, const py::tuple& options) {
  AdditiveArguments a = {};
  a.query = float_input(op, "query", arrays[0]);
  a.value = float_input(op, "value", arrays[1]);
  a.key = float_input(op, "key", arrays[2]);
  a.scale = optional_float_input(op, "scale", arrays[3]);
  read_sizes(a);
  attention::Problem& p = a.problem.pairs;
  p.scale = 1.0f;
  if (!arrays[4].is_none()) {
    a.mask = bool_input(op, "mask", arrays[4]);
    p.mask_strides = mask_strides(a);
  }
  p.left = p.right = attention::unbounded;
  if (bool_option(op, "causal", options[0])) p.right = 0;
  a.query_offsets = read_query_offset(op, p, options[1]);
  read_dropout(op, p, options[2], options[3]);
  return a;
}

void read_arrays(AdditiveArguments& a) {
  attention::Problem& p = a.problem.pairs;
  p.query = a.query.data();
  p.value = a.value.data();
  p.key = a.key.data();
  p.mask = a.mask.data();
  p.query_offsets = a.query_offsets.data();
  a.problem.scale = a.scale.data();
}

// (y, weights): weights are None unless they are wanted.
py::tuple forward(py::tuple arrays, py::tuple options, py::object return_weights) {
  AdditiveArguments a = additive_arguments(arrays, options);
  const bool wants_weights = bool_option(op, "return_weights", return_weights);
  FloatArray y = new_float_array(op, a.result_shape());
  additive_attention::Results results = {y.mutable_data(), nullptr};
  py::object weights = py::none();
  if (wants_weights) {
    FloatArray array = new_float_array(op, a.score_shape());
    results.weights = array.mutable_data();
    weights = std::move(array);
  }
  read_arrays(a);
  {
    const ReleaseGil released;
    additive_attention::kernels().forward(a.problem, results);
  }
  return py::make_tuple(y, weights);
}

FloatInput optional_of_shape(const char* name, py::handle object, const Shape& shape) {
  FloatInput array = optional_float_input(op, name, object);
  if (array) expect_shape(op, name, array, shape);
  return array;
}

// dy: of y and of the weights, each or None.
py::tuple backward(py::tuple dy, py::tuple arrays, py::tuple options, py::tuple needs,
                   py::tuple out) {
  AdditiveArguments a = additive_arguments(arrays, options);
  const FloatInput d_y = optional_of_shape("dy", dy[0], a.result_shape());
  const FloatInput d_weights = optional_of_shape("dweights", dy[1], a.score_shape());
  const ArgumentGradients gradients(op,
                                    {{"query", &a.query},
                                     {"value", &a.value},
                                     {"key", &a.key},
                                     {"scale", &a.scale},
                                     {"mask", nullptr}},
                                    needs, out);
  gradients.expect_separate_from({&d_y, &d_weights});
  read_arrays(a);
  const additive_attention::ResultGradients given = {d_y.data(), d_weights.data()};
  const additive_attention::Gradients wanted = {gradients.data(0), gradients.data(1),
                                                gradients.data(2), gradients.data(3)};
  const attention::Problem& p = a.problem.pairs;
  {
    const ReleaseGil released;
    if (p.batch * p.queries * p.keys == 0) {
      gradients.clear();
    } else {
      additive_attention::kernels().backward(a.problem, given, wanted);
    }
  }
  return gradients.result();
}

}  // namespace

void bind_additive_attention(py::module_& module) {
  module.def("additive_attention_backward", &backward, py::arg("dy"), py::arg("arrays"),
             py::arg("options"), py::arg("needs"), py::arg("out"));
  module.def("additive_attention_forward", &forward, py::arg("arrays"), py::arg("options"),
             py::arg("return_weights"));
}

}  // namespace lamella
