#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/argument_gradients.h"
#include "core/philox.h"
#include "ops/attention/attention.h"

namespace lamella {
namespace {

constexpr const char* op = "attention";

using attention::unbounded;
// Of a query's position: far beyond all keys, and sums with positions and a window fit 63 bits.
constexpr std::int64_t largest_offset = unbounded / 2;

struct AttentionArguments {
  attention::Problem problem;
  FloatInput query, key, value, bias, alibi_slopes;
  Input<std::uint8_t> mask;
  Input<std::int64_t> query_offsets, key_lengths;

  Shape result_shape() const {
    return {problem.batch, problem.queries, problem.heads, problem.value_size};
  }
  Shape lse_shape() const { return {problem.batch, problem.heads, problem.queries}; }
  Shape score_shape() const {
    return {problem.batch, problem.heads, problem.queries, problem.keys};
  }
};

void read_sizes(AttentionArguments& a) {
  expect_ndim(op, "query", a.query, 4, "(N, S, A, E)");
  expect_ndim(op, "key", a.key, 4, "(N, L, K, E)");
  expect_ndim(op, "value", a.value, 4, "(N, L, K, Ev)");
  attention::Problem& p = a.problem;
  p.op = op;
  p.batch = a.query.shape[0];
  p.queries = a.query.shape[1];
  p.heads = a.query.shape[2];
  p.size = a.query.shape[3];
  p.keys = a.key.shape[1];
  p.key_heads = a.key.shape[2];
  p.value_size = a.value.shape[3];
  if (p.heads == 0 || p.size == 0) {
    throw ValueError(message(op,
                             ": query must have at least one head of at least one element, got ",
                             a.query.shape_text()));
  }
  expect_shape(op, "key", a.key, {p.batch, p.keys, p.key_heads, p.size},
               "N and E of query (N, S, A, E)");
  if (p.key_heads == 0 || p.heads % p.key_heads != 0) {
    throw ValueError(message(op, ": the heads of key must divide those of query, got ", p.key_heads,
                             " for ", p.heads));
  }
  expect_shape(op, "value", a.value, {p.batch, p.keys, p.key_heads, p.value_size},
               "N, L and K of key (N, L, K, E)");
  if (p.value_size == 0) {
    throw ValueError(
        message(op, ": value must have heads of at least one element, got ", a.value.shape_text()));
  }
  // Room for padding, and for gradients of the queries per chunk of keys.
  checked_product(op, "the queries", {p.batch + 1, p.queries + 512, p.heads, p.size + 64, 64});
  checked_product(op, "the results", {p.batch + 1, p.queries + 512, p.heads, p.value_size + 64});
  checked_product(op, "the keys", {p.batch + 1, p.keys + 512, p.key_heads, p.size + 64});
  checked_product(op, "the values", {p.batch + 1, p.keys + 512, p.key_heads, p.value_size + 64});
}

// The strides of an array that broadcasts to (N,A,S,L).
template <class T>
attention::Strides score_strides(const AttentionArguments& a, const char* name,
                                 const Input<T>& array) {
  const Shape target = a.score_shape();
  std::int64_t strides[4] = {};
  bool fits = array.ndim <= 4;
  std::int64_t stride = 1;
  for (int i = 1; fits && i <= array.ndim; ++i) {
    const std::int64_t size = array.shape[array.ndim - i];
    fits = size == 1 || size == target[static_cast<std::size_t>(4 - i)];
    strides[4 - i] = size == 1 ? 0 : stride;
    stride *= size;
  }
  if (!fits) {
    throw ValueError(message(op, ": ", name, " must broadcast to (N, A, S, L) = ",
                             shape_text(target), ", got ", array.shape_text()));
  }
  return {strides[0], strides[1], strides[2], strides[3]};
}

std::int64_t window_side(py::handle side, py::handle window) {
  if (side.is_none()) return unbounded;
  const std::int64_t keys = int_option(op, "window", side);
  if (keys < 0) {
    throw ValueError(message(op, ": window must not be negative, got ", repr_text(window)));
  }
  return std::min(keys, unbounded - 1);
}

void read_window(attention::Problem& p, py::handle window, py::handle causal) {
  p.left = p.right = unbounded;
  if (PyTuple_Check(window.ptr()) || PyList_Check(window.ptr())) {
    const auto sides = py::reinterpret_borrow<py::sequence>(window);
    if (sides.size() != 2) {
      throw ValueError(
          message(op, ": window must be an integer or (left, right), got ", repr_text(window)));
    }
    p.left = window_side(sides[0], window);
    p.right = window_side(sides[1], window);
  } else if (!window.is_none()) {
    p.left = window_side(window, window);
    p.right = 0;
  }
  if (bool_option(op, "causal", causal)) p.right = 0;
}

void read_offsets(AttentionArguments& a, py::handle offset) {
  attention::Problem& p = a.problem;
  p.offset = p.keys - p.queries;
  if (offset.is_none()) return;
  if (!py::isinstance<py::array>(offset)) {
    p.offset = std::clamp(int_option(op, "query_offset", offset), -largest_offset, largest_offset);
    return;
  }
  a.query_offsets = index_input(op, "query_offset", offset);
  expect_shape(op, "query_offset", a.query_offsets, {p.batch}, "one a sequence");
  const std::int64_t* const offsets = a.query_offsets.data();
  for (std::int64_t n = 0; n < p.batch; ++n) {
    if (offsets[n] < -largest_offset || offsets[n] > largest_offset) {
      throw ValueError(message(op, ": query_offset must lie within 2**59 of 0, got ", offsets[n],
                               " for sequence ", n));
    }
  }
}

void read_lengths(AttentionArguments& a, py::handle lengths) {
  if (lengths.is_none()) return;
  const attention::Problem& p = a.problem;
  a.key_lengths = index_input(op, "key_lengths", lengths);
  expect_shape(op, "key_lengths", a.key_lengths, {p.batch}, "one a sequence");
  const std::int64_t* const values = a.key_lengths.data();
  for (std::int64_t n = 0; n < p.batch; ++n) {
    if (values[n] >= 0 && values[n] <= p.keys) continue;
    throw ValueError(message(op, ": key_lengths must lie in [0, ", p.keys, "], got ", values[n],
                             " for sequence ", n));
  }
}

void read_dropout(attention::Problem& p, py::handle dropout, py::handle seed) {
  const double rate = real_option(op, "dropout", dropout);
  if (!(rate >= 0.0 && rate < 1.0)) {
    throw ValueError(message(op, ": dropout must lie in [0, 1), got ", rate));
  }
  p.drops = false;
  p.dropout = {};
  if (!seed.is_none()) p.dropout.seed = seed_option(op, "seed", seed);
  if (rate == 0.0) return;
  if (seed.is_none()) throw ValueError(message(op, ": dropout needs a seed"));
  checked_product(op, "the scores", {p.batch + 1, p.heads, p.queries + 1, p.keys + 32});
  p.dropout.threshold = dropout_threshold(rate);
  p.dropout.scale = static_cast<float>(1.0 / (1.0 - rate));
  p.drops = p.dropout.threshold <= 0xFFFFFFFFu;  // a smaller rate drops nothing
}

float positive_real(const char* name, py::handle object) {
  const double value = real_option(op, name, object);
  if (!(value > 0.0)) throw ValueError(message(op, ": ", name, " must be positive, got ", value));
  return static_cast<float>(value);
}

// arrays: query, key, value, mask, bias. options: scale, causal, query_offset, key_lengths, window,
// softcap, alibi_slopes, dropout, seed.
AttentionArguments attention_arguments(const py::tuple& arrays, const py::tuple& options) {
  AttentionArguments a = {};
  a.query = float_input(op, "query", arrays[0]);
  a.key = float_input(op, "key", arrays[1]);
  a.value = float_input(op, "value", arrays[2]);
  attention::Problem& p = a.problem;
  read_sizes(a);
  if (!arrays[3].is_none()) {
    a.mask = bool_input(op, "mask", arrays[3]);
    p.mask_strides = score_strides(a, "mask", a.mask);
  }
  if (!arrays[4].is_none()) {
    a.bias = float_input(op, "bias", arrays[4]);
    p.bias_strides = score_strides(a, "bias", a.bias);
  }
  p.scale = options[0].is_none() ? static_cast<float>(1.0 / std::sqrt(static_cast<double>(p.size)))
                                 : static_cast<float>(real_option(op, "scale", options[0]));
  read_window(p, options[4], options[1]);
  read_offsets(a, options[2]);
  read_lengths(a, options[3]);
  p.softcap = options[5].is_none() ? 0.0f : positive_real("softcap", options[5]);
  if (!options[6].is_none()) {
    a.alibi_slopes = float_input(op, "alibi_slopes", options[6]);
    expect_shape(op, "alibi_slopes", a.alibi_slopes, {p.heads}, "one a head of query");
  }
  read_dropout(p, options[7], options[8]);
  return a;
}

void read_arrays(AttentionArguments& a) {
  attention::Problem& p = a.problem;
  p.query = a.query.data();
  p.key = a.key.data();
  p.value = a.value.data();
  p.mask = a.mask.data();
  p.bias = a.bias.data();
  p.alibi_slopes = a.alibi_slopes.data();
  p.query_offsets = a.query_offsets.data();
  p.key_lengths = a.key_lengths.data();
}

// (y, lse, weights, saved): lse and weights are None unless they are wanted.
py::tuple forward(py::tuple arrays, py::tuple options, py::object return_lse,
                  py::object return_weights) {
  AttentionArguments a = attention_arguments(arrays, options);
  const bool wants_lse = bool_option(op, "return_lse", return_lse);
  const bool wants_weights = bool_option(op, "return_weights", return_weights);
  py::array_t<float> y = new_float_array(op, a.result_shape());
  py::array_t<float> lse = new_float_array(op, a.lse_shape());
  attention::Results results = {y.mutable_data(), lse.mutable_data(), nullptr};
  py::object weights = py::none();
  if (wants_weights) {
    py::array_t<float> array = new_float_array(op, a.score_shape());
    results.weights = array.mutable_data();
    weights = std::move(array);
  }
  py::object natural = py::none();
  float* natural_lse = nullptr;
  if (wants_lse) {
    py::array_t<float> array = new_float_array(op, a.lse_shape());
    natural_lse = array.mutable_data();
    natural = std::move(array);
  }
  read_arrays(a);
  const std::int64_t rows = static_cast<std::int64_t>(lse.size());
  {
    const ReleaseGil released;
    attention::kernels().forward(a.problem, results);
    for (std::int64_t i = 0; natural_lse != nullptr && i < rows; ++i) {
      natural_lse[i] = results.lse[i] * 0.693147181f;
    }
  }
  return py::make_tuple(y, natural, weights, py::make_tuple(y, lse, weights));
}

FloatInput optional_gradient_of(const char* name, py::handle dy, const Shape& shape) {
  FloatInput gradient = optional_float_input(op, name, dy);
  if (gradient) expect_shape(op, name, gradient, shape);
  return gradient;
}

// dy: of y, lse and weights, each or None.
py::tuple backward(py::tuple dy, py::tuple arrays, py::tuple saved, py::tuple options,
                   py::tuple needs, py::tuple out) {
  AttentionArguments a = attention_arguments(arrays, options);
  const FloatInput y = float_input(op, "y", saved[0]);
  const FloatInput lse = float_input(op, "lse", saved[1]);
  const FloatInput weights = optional_float_input(op, "weights", saved[2]);
  expect_shape(op, "y", y, a.result_shape());
  expect_shape(op, "lse", lse, a.lse_shape());
  if (weights) expect_shape(op, "weights", weights, a.score_shape());
  const FloatInput d_y = optional_gradient_of("dy", dy[0], a.result_shape());
  const FloatInput d_lse = optional_gradient_of("dlse", dy[1], a.lse_shape());
  const FloatInput d_weights = optional_gradient_of("dweights", dy[2], a.score_shape());
  const ArgumentGradients gradients(op,
                                    {{"query", &a.query},
                                     {"key", &a.key},
                                     {"value", &a.value},
                                     {"mask", nullptr},
                                     {"bias", &a.bias}},
                                    needs, out);
  gradients.expect_separate_from({&d_y, &d_lse, &d_weights, &y, &lse, &weights, &a.alibi_slopes});
  read_arrays(a);
  const attention::Saved given = {y.data(),   lse.data(),   weights.data(),
                                  d_y.data(), d_lse.data(), d_weights.data()};
  const attention::Gradients wanted = {gradients.data(0), gradients.data(1), gradients.data(2),
                                       gradients.data(4)};
  const attention::Problem& p = a.problem;
  {
    const ReleaseGil released;
    if (p.batch * p.queries * p.keys == 0) {
      for (std::size_t i = 0; i < gradients.count(); ++i) {
        if (gradients.data(i) == nullptr) continue;
        std::memset(gradients.data(i), 0,
                    static_cast<std::size_t>(gradients.size(i)) * sizeof(float));
      }
    } else {
      attention::kernels().backward(p, given, wanted);
    }
  }
  return gradients.arrays();
}

}  // namespace

void bind_attention(py::module_& module) {
  module.def("attention_forward", &forward, py::arg("arrays"), py::arg("options"),
             py::arg("return_lse"), py::arg("return_weights"));
  module.def("attention_backward", &backward, py::arg("dy"), py::arg("arrays"), py::arg("saved"),
             py::arg("options"), py::arg("needs"), py::arg("out"));
}

}  // namespace lamella
