#include "core/argument_gradients.h"
#include "ops/attention/attention_arguments.h"

namespace lamella {
namespace {

constexpr const char* op = "attention";

AttentionArguments arguments(const py::tuple& arrays, const py::tuple& options) {
  return attention_arguments(op, float_input(op, "query", arrays[0]),
                             float_input(op, "key", arrays[1]), float_input(op, "value", arrays[2]),
                             arrays[3], arrays[4], options);
}

// (y, lse, weights, saved); arrays: query, key, value, mask, bias.
py::tuple forward(py::tuple arrays, py::tuple options, py::object return_lse,
                  py::object return_weights) {
  AttentionArguments a = arguments(arrays, options);
  const AttentionResults r = attention_results(a, return_lse, return_weights);
  a.read();
  {
    const ReleaseGil released;
    compute_attention(a, r);
  }
  return py::make_tuple(r.y, r.natural_lse, r.weights, py::make_tuple(r.y, r.lse, r.weights));
}

// dy: of y, lse and weights, each or None.
py::tuple backward(py::tuple dy, py::tuple arrays, py::tuple saved, py::tuple options,
                   py::tuple needs, py::tuple out) {
  AttentionArguments a = arguments(arrays, options);
  const FloatInput y = float_input(op, "y", saved[0]);
  expect_shape(op, "y", y, a.result_shape());
  const FloatInput d_y = optional_float_input(op, "dy", dy[0]);
  if (d_y) expect_shape(op, "dy", d_y, a.result_shape());
  const AttentionGradients g = attention_gradients(a, saved[1], saved[2], dy[1], dy[2]);
  const ArgumentGradients gradients(op,
                                    {{"query", &a.query},
                                     {"key", &a.key},
                                     {"value", &a.value},
                                     {"mask", nullptr},
                                     {"bias", &a.bias}},
                                    needs, out);
  gradients.expect_separate_from(
      {&d_y, &g.d_lse, &g.d_weights, &y, &g.lse, &g.weights, &a.alibi_slopes});
  a.read();
  const attention::Saved given = {y.data(),   g.lse.data(),   g.weights.data(),
                                  d_y.data(), g.d_lse.data(), g.d_weights.data()};
  const attention::Gradients wanted = {gradients.data(0), gradients.data(1), gradients.data(2),
                                       gradients.data(4)};
  {
    const ReleaseGil released;
    if (a.empty()) {
      gradients.clear();
    } else {
      attention::kernels().backward(a.problem, given, wanted);
    }
  }
  return gradients.result();
}

}  // namespace

void bind_attention(py::module_& module) {
  module.def("attention_forward", &forward, py::arg("arrays"), py::arg("options"),
             py::arg("return_lse"), py::arg("return_weights"));
  module.def("attention_backward", &backward, py::arg("dy"), py::arg("arrays"), py::arg("saved"),
             py::arg("options"), py::arg("needs"), py::arg("out"));
}

}  // namespace lamella
