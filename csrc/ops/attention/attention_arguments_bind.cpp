#include <algorithm>
#include <cmath>

#include "core/philox.h"
#include "ops/attention/attention_arguments.h"

namespace lamella {
namespace {

using attention::unbounded;
// Of a query's position: far beyond all keys, and sums with positions and a window fit 63 bits.
constexpr std::int64_t largest_offset = unbounded / 2;

void read_sizes(const char* op, AttentionArguments& a) {
  expect_ndim(op, "query", a.query, 4, "(N, S, A, E)");
  expect_ndim(op, "key", a.key, 4, "(N, L, K, E)");
  expect_ndim(op, "value", a.value, 4, "(N, L, K, Ev)");
  attention::Problem& p = a.problem;
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
attention::Strides score_strides(const char* op, const AttentionArguments& a, const char* name,
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

std::int64_t window_side(const char* op, py::handle side, py::handle window) {
  if (side.is_none()) return unbounded;
  const std::int64_t keys = int_option(op, "window", side);
  if (keys < 0) {
    throw ValueError(message(op, ": window must not be negative, got ", repr_text(window)));
  }
  return std::min(keys, unbounded - 1);
}

void read_window(const char* op, attention::Problem& p, py::handle window, py::handle causal) {
  p.left = p.right = unbounded;
  if (PyTuple_Check(window.ptr()) || PyList_Check(window.ptr())) {
    const auto sides = py::reinterpret_borrow<py::sequence>(window);
    if (sides.size() != 2) {
      throw ValueError(
          message(op, ": window must be an integer or (left, right), got ", repr_text(window)));
    }
    p.left = window_side(op, sides[0], window);
    p.right = window_side(op, sides[1], window);
  } else if (!window.is_none()) {
    p.left = window_side(op, window, window);
    p.right = 0;
  }
  if (bool_option(op, "causal", causal)) p.right = 0;
}

void read_lengths(const char* op, AttentionArguments& a, py::handle lengths) {
  if (lengths.is_none()) return;
  const attention::Problem& p = a.problem;
  a.key_lengths = index_input(op, "key_lengths", lengths);
  expect_shape(op, "key_lengths", a.key_lengths, {p.batch}, "one a sequence");
  const std::int64_t* const values = a.key_lengths.host_data();
  for (std::int64_t n = 0; n < p.batch; ++n) {
    if (values[n] >= 0 && values[n] <= p.keys) continue;
    throw ValueError(message(op, ": key_lengths must lie in [0, ", p.keys, "], got ", values[n],
                             " for sequence ", n));
  }
}

float positive_real(const char* op, const char* name, py::handle object) {
  const double value = real_option(op, name, object);
  if (!(value > 0.0)) throw ValueError(message(op, ": ", name, " must be positive, got ", value));
  return static_cast<float>(value);
}

FloatInput optional_gradient(const char* op, const char* name, py::handle dy, const Shape& shape) {
  FloatInput gradient = optional_float_input(op, name, dy);
  if (gradient) expect_shape(op, name, gradient, shape);
  return gradient;
}

}  // namespace

Input<std::int64_t> read_query_offset(const char* op, attention::Problem& p, py::handle offset) {
  p.offset = p.keys - p.queries;
  if (offset.is_none()) return {};
  if (!is_array(offset)) {
    p.offset = std::clamp(int_option(op, "query_offset", offset), -largest_offset, largest_offset);
    return {};
  }
  Input<std::int64_t> array = index_input(op, "query_offset", offset);
  expect_shape(op, "query_offset", array, {p.batch}, "one a sequence");
  const std::int64_t* const offsets = array.host_data();
  for (std::int64_t n = 0; n < p.batch; ++n) {
    if (offsets[n] < -largest_offset || offsets[n] > largest_offset) {
      throw ValueError(message(op, ": query_offset must lie within 2**59 of 0, got ", offsets[n],
                               " for sequence ", n));
    }
  }
  return array;
}

void read_dropout(const char* op, attention::Problem& p, py::handle dropout, py::handle seed) {
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

AttentionArguments attention_arguments(const char* op, FloatInput query, FloatInput key,
                                       FloatInput value, py::handle mask, py::handle bias,
                                       const py::tuple& options) {
  AttentionArguments a = {};
  a.query = std::move(query);
  a.key = std::move(key);
  a.value = std::move(value);
  attention::Problem& p = a.problem;
  p.op = op;
  read_sizes(op, a);
  if (!mask.is_none()) {
    a.mask = bool_input(op, "mask", mask);
    p.mask_strides = score_strides(op, a, "mask", a.mask);
  }
  if (!bias.is_none()) {
    a.bias = float_input(op, "bias", bias);
    p.bias_strides = score_strides(op, a, "bias", a.bias);
  }
  p.scale = options[0].is_none() ? static_cast<float>(1.0 / std::sqrt(static_cast<double>(p.size)))
                                 : static_cast<float>(real_option(op, "scale", options[0]));
  read_window(op, p, options[4], options[1]);
  a.query_offsets = read_query_offset(op, p, options[2]);
  read_lengths(op, a, options[3]);
  p.softcap = options[5].is_none() ? 0.0f : positive_real(op, "softcap", options[5]);
  if (!options[6].is_none()) {
    a.alibi_slopes = float_input(op, "alibi_slopes", options[6]);
    expect_shape(op, "alibi_slopes", a.alibi_slopes, {p.heads}, "one a head of query");
  }
  read_dropout(op, p, options[7], options[8]);
  return a;
}

void AttentionArguments::read() {
  problem.query = query.data();
  problem.key = key.data();
  problem.value = value.data();
  problem.mask = mask.data();
  problem.bias = bias.data();
  problem.alibi_slopes = alibi_slopes.data();
  problem.query_offsets = query_offsets.data();
  problem.key_lengths = key_lengths.data();
}

AttentionResults attention_results(const AttentionArguments& a, py::handle return_lse,
                                   py::handle return_weights) {
  const char* const op = a.problem.op;
  const bool wants_lse = bool_option(op, "return_lse", return_lse);
  const bool wants_weights = bool_option(op, "return_weights", return_weights);
  AttentionResults r = {new_float_array(op, a.result_shape()),
                        new_float_array(op, a.lse_shape()),
                        py::none(),
                        py::none(),
                        {},
                        nullptr};
  r.data = {r.y.mutable_data(), r.lse.mutable_data(), nullptr};
  if (wants_weights) {
    FloatArray weights = new_float_array(op, a.score_shape());
    r.data.weights = weights.mutable_data();
    r.weights = std::move(weights);
  }
  if (wants_lse) {
    FloatArray lse = new_float_array(op, a.lse_shape());
    r.natural = lse.mutable_data();
    r.natural_lse = std::move(lse);
  }
  return r;
}

void compute_attention(const AttentionArguments& a, const AttentionResults& r) {
  const attention::Problem& p = a.problem;
  attention::kernels().forward(p, r.data);
  if (r.natural == nullptr) return;
  constexpr float ln_2 = 0.693147181f;
  for (std::int64_t i = 0; i < p.batch * p.heads * p.queries; ++i) {
    r.natural[i] = r.data.lse[i] * ln_2;
  }
}

AttentionGradients attention_gradients(const AttentionArguments& a, py::handle lse,
                                       py::handle weights, py::handle d_lse, py::handle d_weights) {
  const char* const op = a.problem.op;
  AttentionGradients g;
  g.lse = float_input(op, "lse", lse);
  g.weights = optional_float_input(op, "weights", weights);
  expect_shape(op, "lse", g.lse, a.lse_shape());
  if (g.weights) expect_shape(op, "weights", g.weights, a.score_shape());
  g.d_lse = optional_gradient(op, "dlse", d_lse, a.lse_shape());
  g.d_weights = optional_gradient(op, "dweights", d_weights, a.score_shape());
  return g;
}

}  // namespace lamella
